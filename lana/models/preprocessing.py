"""The input that a network takes: images with their preprocessing, or tensors of another kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from lana.errors import UserError

IMAGE_SIZE, IMAGENET_MEAN, IMAGENET_STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The steps from images to a network's input: resize to `image_size`, scale to 0…1, normalise per channel.

    `channels` is 1 for grey images and 3 for RGB.

    Raises:
        UserError: means or deviations that no image has.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
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

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.channels, self.image_size, self.image_size)


class InputOptions(TypedDict, total=False):
    """A user's options for a network's input: its images, or `input_shape` where it takes no images."""

    image_size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input_shape: tuple[int, ...] | None


def make_preprocessing(
    own: Mapping[str, Any] | None,
    *,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    input_shape: tuple[int, ...] | None = None,
    channels_taken: Callable[[int], Collection[int]] = lambda image_size: (),
) -> Preprocessing | None:
    """The preprocessing by the options, else by the model's `own` configuration, else ImageNet's; None for no images.

    One mean or deviation stands for all channels. Where both are one value, `channels_taken` at the image size decides
    how many channels there are.

    Raises:
        UserError: options that contradict each other, means or deviations that no image has; one value for a network
            that takes both grey and RGB images.
    """
    if input_shape is not None:
        if image_size or mean or std:
            raise UserError(
                "--input-shape is for inputs that are not images: give it without --image-size, --mean and --std."
            )
        return None
    own = own or {}
    size = image_size or own.get("image_size") or IMAGE_SIZE
    means, stds = tuple(mean or own.get("mean") or IMAGENET_MEAN), tuple(std or own.get("std") or IMAGENET_STD)
    channels = max(len(means), len(stds))
    if channels == 1:
        channels = _channels(own, channels_taken(size), means + stds)
    means, stds = (values * channels if len(values) == 1 else values for values in (means, stds))
    return Preprocessing(image_size=size, mean=means, std=stds)


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
