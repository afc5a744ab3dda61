"""Images as the network takes them: decoded, resized, cropped."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.data.split import Split, from_arrays
from lana.errors import UserError
from lana.models.teacher import Preprocessing, Teacher

CHANNELS = (1, 3, 4)  # of images: grey, RGB, RGBA

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}

MEMORY_BYTES = 2 << 30  # decoded images are kept up to this size, else decoded anew at every use


def require_images(teacher: Teacher, reference: str) -> Preprocessing:
    if teacher.preprocessing is None:
        raise UserError(
            f"{reference} holds images, but --input-shape says that the model takes something else. "
            "Leave --input-shape out and give --image-size, --mean and --std."
        )
    return teacher.preprocessing


def to_pixels(image: Any, preprocessing: Preprocessing) -> Tensor:
    """A PIL image as uint8 (C, S, S): the shorter side scaled to S (bicubic where it shrinks), the middle cut out."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        image = Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("RGB" if preprocessing.channels == 3 else "L")
    size = preprocessing.image_size
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
        image = image.resize(scaled, Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.BILINEAR)
        left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def encoded_images(
    open_one: Sequence[Any], names: Sequence[str], labels: np.ndarray, preprocessing: Preprocessing
) -> Split:
    """Encoded images (paths or bytes), decoded once and kept where they fit in memory, else at every use.

    Raises:
        UserError: images that cannot be read, by name and number.
    """
    from PIL import Image

    def decode(index: int) -> Tensor | str:
        source = open_one[index]
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return to_pixels(image, preprocessing)
        except Exception as error:
            return f"{names[index]} ({type(error).__name__}: {str(error)[:80]})"

    kept = len(names) * int(np.prod(preprocessing.input_shape)) <= MEMORY_BYTES
    # Where images are decoded at every use, a broken one shows late, when a run stands on the labels of all.
    mend = (
        "Remove or mend them" if kept else "Put others in their places: without them, a run that was begun is another"
    )

    def decode_all(indices: Sequence[int]) -> Tensor:
        with ThreadPoolExecutor(4) as pool:
            decoded = list(pool.map(decode, indices))
        broken = [result for result in decoded if isinstance(result, str)]
        if broken:
            raise UserError(
                f"{len(broken)} of {len(indices)} images cannot be read: {'; '.join(broken[:5])}"
                f"{' …' if len(broken) > 5 else ''}. {mend}."
            )
        return torch.stack([result for result in decoded if isinstance(result, Tensor)])

    targets = torch.from_numpy(labels)
    if kept:
        return from_arrays(decode_all(range(len(names))), targets, preprocessing)
    return Split(
        read=lambda indices: (decode_all(indices.tolist()), targets[torch.from_numpy(indices)]),
        indices=np.arange(len(names)),
        labels=labels,
        preprocessing=preprocessing,
    )
