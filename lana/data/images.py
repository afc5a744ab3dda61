"""Images as the network takes them: decoded, resized, cropped."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
    """A PIL image as uint8 (C, S, S): the shorter side scaled (bicubic where it shrinks), the centre cropped.

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
    size, resized = preprocessing.image_size, preprocessing.resized
    width, height = image.size
    if (width, height) != (size, size) or resized != size:
        scale = resized / min(width, height)
        scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
        image = image.resize(scaled, Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.BILINEAR)
        left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


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
