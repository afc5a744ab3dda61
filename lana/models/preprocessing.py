"""The input that a network takes: images with their preprocessing, or tensors of another kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from lana.errors import UserError

FITS, CHANNEL_ORDERS = ("crop", "stretch", "letterbox"), ("rgb", "bgr")
FITTING = ("crop_share", "image_width", "fit", "fill", "channel_order")  # that have a default of their own
KEYS = ("image_size", "mean", "std", *FITTING)  # that a network may carry
IMAGE_SIZE, IMAGENET_MEAN, IMAGENET_STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The steps from images to a network's input: resize, crop, scale to 0…1, normalise per channel.

    The shorter side becomes `resized`, and the centre of `image_size` is its `crop_share`. `channels` is 1 for grey
    images and 3 for RGB. `source` tells where the values are from.

    `image_size` is the height, and the width unless `image_width` is given. The `fit` is how an image of another shape
    comes to that size (`FITS`); `fill` is the grey of a letterbox's borders. `channel_order` is rgb or bgr; means and
    deviations are in that order.

    Raises:
        UserError: means or deviations that no image has; an unknown fit or order of channels.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_share: float = 1.0
    image_width: int | None = None
    fit: str = "crop"
    fill: int = 114
    channel_order: str = "rgb"
    source: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        for name, value, choices in (("fit", self.fit, FITS), ("channel-order", self.channel_order, CHANNEL_ORDERS)):
            if value not in choices:
                raise UserError(f"--{name} {str(value)[:40]!r}: expected one of {', '.join(choices)}.")
        means, stds = (",".join(map(str, values)) for values in (self.mean, self.std))
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise UserError(
                f"--mean has {len(self.mean)} values and --std {len(self.std)}: "
                "expected one for all channels, or three for RGB."
            )
        if max(self.mean) > 1:
            raise UserError(f"--mean {means}: expected means of images in 0…1, as 0.485,0.456,0.406 (divide by 255).")
        if min(self.std) <= 0:
            raise UserError(f"--std {stds}: expected more than 0 for every channel.")
        if not 0 < self.crop_share <= 1:
            raise UserError(f"A crop share of {self.crop_share:g}: expected more than 0 and at most 1.")

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        colours = self.channel_order.upper() if self.channels == 3 else "grey"
        size = f"{self.image_size}" if self.width == self.height else f"{self.width}×{self.height}"
        fitted = {
            "crop": f"shorter side to {self.resized} then centre",
            "stretch": f"stretched to {self.width}×{self.height}",
            "letterbox": f"letterboxed to {self.width}×{self.height} on grey {self.fill}",
        }
        return f"{size} pixels, {colours}, mean {mean}, std {std}, {fitted[self.fit]}: {self.source}"

    @property
    def height(self) -> int:
        return self.image_size

    @property
    def width(self) -> int:
        return self.image_width or self.image_size

    @property
    def resized(self) -> int:
        """Pixels of the shorter side before the centre is cropped."""
        return max(self.image_size, round(self.image_size / self.crop_share))

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)


class InputOptions(TypedDict, total=False):
    """A user's options for a network's input: its images, or `input_shape` where it takes no images."""

    image_size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input_shape: tuple[int, ...] | None
    crop_share: float | None
    source: str | None
    image_width: int | None
    fit: str | None
    fill: int | None
    channel_order: str | None


def make_preprocessing(
    own: Mapping[str, Any] | None,
    *,
    channels_taken: Callable[[int, int], Collection[int]] = lambda height, width: (),
    **inputs: Unpack[InputOptions],
) -> Preprocessing | None:
    """The preprocessing by the options, else by the model's `own` configuration, else ImageNet's; None for no images.

    One mean or deviation stands for all channels. Where both are one value, `channels_taken` at the image size decides
    how many channels there are. The `source` of a student is given: all its values are its teacher's.

    Raises:
        UserError: options that contradict each other, means or deviations that no image has; one value for a network
            that takes both grey and RGB images.
    """
    given: dict[str, Any] = {name: inputs.get(name) for name in KEYS}
    if inputs.get("input_shape") is not None:
        if any(value is not None for value in given.values()):
            raise UserError(
                "--input-shape is for inputs that are not images: give it without --image-size, --mean and --std, "
                "and without --image-width, --fit, --fill and --channel-order."
            )
        return None
    own = own or {}
    size = given["image_size"] or own.get("image_size") or IMAGE_SIZE
    width = given["image_width"] or (None if given["image_size"] else own.get("image_width"))
    means = tuple(given["mean"] or own.get("mean") or IMAGENET_MEAN)
    stds = tuple(given["std"] or own.get("std") or IMAGENET_STD)
    channels = max(len(means), len(stds))
    if channels == 1:
        channels = _channels(own, channels_taken(size, width or size), means + stds)
    means, stds = (values * channels if len(values) == 1 else values for values in (means, stds))
    fitting = {name: own.get(name) if given[name] is None else given[name] for name in FITTING}
    fitting["image_width"] = width
    return Preprocessing(
        image_size=size,
        mean=means,
        std=stds,
        **{name: value for name, value in fitting.items() if value is not None},
        source=inputs.get("source") or _source(given, own),
    )


def _source(given: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Where each value is from.

    >>> _source({"image_size": 64, "mean": None}, {"mean": (0.5,)})
    "from the model's own configuration; image size given"
    """
    names: dict[str, list[str]] = {"own": [], "given": [], "assumed": []}
    for name, value in given.items():
        if name in FITTING and value is None and not own.get(name):
            continue  # as images usually are
        origin = "given" if value else "own" if own.get(name) else "assumed"
        names[origin].append(name.replace("_", " "))
    kinds = [origin for origin in names if names[origin]]
    if kinds in (["given"], ["assumed"]):
        return kinds[0]
    parts = [f"{', '.join(names[origin])} {origin}" for origin in ("given", "assumed") if names[origin]]
    return "; ".join([*(["from the model's own configuration"] if names["own"] else []), *parts])


def _channels(own: Mapping[str, Any], taken: Collection[int], given: tuple[float, ...]) -> int:
    """How many channels one mean and one deviation stand for; grey where nothing else is known."""
    if len(taken) < 2:
        return next(iter(taken), 1)
    if own.get("mean"):
        return len(own["mean"])
    raise UserError(
        f"--mean {given[0]} --std {given[1]} give one value, and the model takes grey images as well as RGB. "
        "Give three values each for RGB; for grey, let the module carry a `preprocessing` with one value each."
    )
