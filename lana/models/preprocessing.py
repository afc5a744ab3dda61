"""The input that a network takes: images with their preprocessing, or tensors of another kind."""

from __future__ import annotations

from collections.abc import Mapping
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
                "expected one each for grey images or three each for RGB."
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
) -> Preprocessing | None:
    """The preprocessing by the options, else by the model's `own` configuration, else ImageNet's; None for no images.

    Raises:
        UserError: options that contradict each other, means or deviations that no image has.
    """
    if input_shape is not None:
        if image_size or mean or std:
            raise UserError(
                "--input-shape is for inputs that are not images: give it without --image-size, --mean and --std."
            )
        return None
    own = own or {}
    return Preprocessing(
        image_size=image_size or own.get("image_size") or IMAGE_SIZE,
        mean=tuple(mean or own.get("mean") or IMAGENET_MEAN),
        std=tuple(std or own.get("std") or IMAGENET_STD),
    )
