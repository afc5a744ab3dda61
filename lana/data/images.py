"""Images as the network takes them: decoded, resized, cropped."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.data.formats import open_image
from lana.data.split import Split, from_arrays
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher

CHANNELS = (1, 3, 4)  # of images: grey, RGB, RGBA

MEMORY_BYTES = 2 << 30  # decoded images are kept up to this size, else decoded anew at every use

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

DECODING_WORKERS = min(4, PROCESSORS)


def require_images(teacher: Teacher, reference: str) -> Preprocessing:
    if teacher.preprocessing is None:
        raise UserError(
            f"{reference} holds images, but --input-shape says that the model takes other inputs. "
            "Leave --input-shape out and give --image-size, --mean and --std."
        )
    return teacher.preprocessing


def to_pixels(image: Any, preprocessing: Preprocessing) -> Tensor:
    """A PIL image as uint8 (C, H, W), fitted as the preprocessing says; a crop is bicubic where the image shrinks.

    Raises:
        ValueError: its values are in no range of 8 or 16 bits.
    """
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip at 255
        values = np.asarray(image, dtype=np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its values run from {values.min()} to {values.max()}, expected 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":  # `convert` would clip at 0 and 255, and round shares to black
        low, high = image.getextrema()
        if not (low == high == 0 or (low >= 0 and 1 < high <= 255)):
            raise ValueError(f"its floats run from {low:g} to {high:g}, expected 0…255")
    image = image.convert("RGB" if preprocessing.channels == 3 else "L")
    image = _fitted(image, preprocessing)
    pixels = torch.from_numpy(np.array(image))
    if pixels.ndim == 2:
        return pixels.unsqueeze(0)
    return (pixels.flip(2) if preprocessing.channel_order == "bgr" else pixels).permute(2, 0, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a whole image comes to lie in a network's input, in pixels of that; a crop shows a part of it."""

    left: int
    top: int
    width: int
    height: int


def placement(size: tuple[int, int], preprocessing: Preprocessing) -> Placement:
    """Where an image of (width, height) comes to lie.

    >>> placement((200, 100), Preprocessing(image_size=50, mean=(0.0,), std=(1.0,), fit="letterbox"))
    Placement(left=0, top=12, width=50, height=25)
    """
    width, height = preprocessing.width, preprocessing.height
    share = preprocessing.crop_share if preprocessing.fit == "crop" else 1.0
    if preprocessing.fit == "stretch" or (size == (width, height) and share == 1):
        return Placement(left=0, top=0, width=width, height=height)
    across, down = width / size[0], height / size[1]
    if preprocessing.fit == "letterbox":
        scale = min(across, down)
        scaled = (min(width, max(1, round(size[0] * scale))), min(height, max(1, round(size[1] * scale))))
        left, top = (width - scaled[0]) // 2, (height - scaled[1]) // 2
        return Placement(left=left, top=top, width=scaled[0], height=scaled[1])
    covered = preprocessing.resized
    scale = max(covered * (width / height) / size[0], covered / size[1])
    scaled = (max(width, round(size[0] * scale)), max(height, round(size[1] * scale)))
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return Placement(left=-left, top=-top, width=scaled[0], height=scaled[1])


def _fitted(image: Any, preprocessing: Preprocessing) -> Any:
    """The image at the size that the network takes."""
    from PIL import Image

    place, size = placement(image.size, preprocessing), (preprocessing.width, preprocessing.height)
    if (place.width, place.height) != image.size:
        shrinks = place.width < image.size[0]
        bicubic = shrinks and preprocessing.fit == "crop"  # detectors are trained on bilinear ones
        image = image.resize(
            (place.width, place.height), Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
        )
    if preprocessing.fit == "letterbox" and image.size != size:
        canvas = Image.new(image.mode, size, (preprocessing.fill,) * len(image.getbands()))
        canvas.paste(image, (place.left, place.top))
        return canvas
    if image.size != size:
        return image.crop((-place.left, -place.top, size[0] - place.left, size[1] - place.top))
    return image


class EncodedImages:
    """Encoded images (paths or bytes) and their labels, decoded whenever they are read; picklable, for workers."""

    def __init__(
        self, sources: Sequence[Any], names: Sequence[str], labels: np.ndarray, preprocessing: Preprocessing
    ) -> None:
        self.sources, self.names, self.preprocessing = sources, names, preprocessing
        self.labels = torch.from_numpy(labels)

    @property
    def fit_in_memory(self) -> bool:
        return len(self.names) * math.prod(self.preprocessing.input_shape) <= MEMORY_BYTES

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """The images and labels at `indices`.

        Raises:
            UserError: images cannot be read; the message names and counts them.
        """
        return self._stacked([self._decoded(index) for index in indices]), self.labels[torch.from_numpy(indices)]

    def read_all(self) -> Tensor:
        with ThreadPoolExecutor(4) as threads:
            return self._stacked(list(threads.map(self._decoded, range(len(self.names)))))

    def _decoded(self, index: int) -> Tensor | str:
        """The pixels, or the reason why they cannot be read."""
        try:
            with open_image(self.sources[index]) as image:
                return to_pixels(image, self.preprocessing)
        except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error and others
            return f"{self.names[index]} ({type(error).__name__}: {str(error)[:80]})"

    def _stacked(self, decoded: Sequence[Tensor | str]) -> Tensor:
        broken = [reason for reason in decoded if isinstance(reason, str)]
        if broken:
            # Images that are decoded at every use fail late, when the run depends on the labels of all of them.
            remedy = (
                "Remove or repair them"
                if self.fit_in_memory
                else "Put others in their places: without them, a run that has begun is another"
            )
            raise UserError(
                f"{len(broken)} of {len(decoded)} images cannot be read: {'; '.join(broken[:5])}"
                f"{' …' if len(broken) > 5 else ''}. {remedy}."
            )
        return torch.stack([pixels for pixels in decoded if isinstance(pixels, Tensor)])


def encoded_images(
    sources: Sequence[Any], names: Sequence[str], labels: np.ndarray, preprocessing: Preprocessing
) -> Split:
    """Encoded images (paths or bytes), decoded once and kept where they fit in memory, else at every use.

    Raises:
        UserError: images cannot be read; the message names and counts them.
    """
    images = EncodedImages(sources, names, labels, preprocessing)
    if images.fit_in_memory:
        return from_arrays(images.read_all(), images.labels, preprocessing)
    return Split(
        read=images.read,
        indices=np.arange(len(names)),
        labels=labels,
        preprocessing=preprocessing,
        workers=DECODING_WORKERS,
    )
