"""Arrays in a file of `numpy.savez`."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from lana.data.images import CHANNELS, require_images, to_pixels
from lana.data.split import Split, checked_shape, from_arrays
from lana.errors import UserError
from lana.models.teacher import Teacher

# A file that is no archive, a damaged one, pickled objects, a single array.
UNREADABLE = (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


def read_npz(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], None]:
    """Read the arrays x_train, y_train, x_test and y_test: uint8 images (N, H, W[, C]), or floats as the network takes.

    The test arrays are optional.
    """
    path = Path(place).expanduser()
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")  # a pipe would be waited for
        with np.load(path) as content:
            arrays = {name: _native(content[name]) for name in content.files}
    except UNREADABLE as error:
        raise UserError(
            f"npz:{place}: {path} cannot be read ({type(error).__name__}: {error}). Expected a file written by "
            "numpy.savez(path, x_train=…, y_train=…) with arrays of numbers."
        ) from error
    if not {"x_train", "y_train"} <= arrays.keys() or ("x_test" in arrays) != ("y_test" in arrays):
        held = f"{', '.join(list(arrays)[:6])}{' …' if len(arrays) > 6 else ''}"
        raise UserError(f"{path} has the arrays {held}; expected x_train and y_train (and x_test, y_test).")
    splits = [
        _array_split(arrays[f"x_{part}"], arrays[f"y_{part}"], teacher, place) if f"x_{part}" in arrays else None
        for part in ("train", "test")
    ]
    return (splits[0], splits[1]), None  # type: ignore[return-value]


def _native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order: torch takes no other."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _array_split(inputs: np.ndarray, labels: np.ndarray, teacher: Teacher, place: str) -> Split:
    if inputs.dtype.kind in "iu" and inputs.dtype != np.uint8:
        raise UserError(f"npz:{place} holds inputs of type {inputs.dtype}. Expected uint8 images, or floats.")
    if labels.dtype.kind not in "biuf":
        raise UserError(f"npz:{place} holds labels of type {labels.dtype}. Expected the numbers of classes, from 0.")
    if inputs.dtype != np.uint8 and not np.isfinite(inputs).all():
        raise UserError(f"npz:{place} holds inputs that are no finite numbers. Remove or repair these examples.")
    if inputs.dtype != np.uint8:
        return checked_shape(from_arrays(inputs.astype(np.float32), labels, None), teacher, f"npz:{place}")
    from PIL import Image

    preprocessing = require_images(teacher, f"npz:{place}")
    if inputs.ndim == 4 and inputs.shape[3] not in CHANNELS and inputs.shape[1] in CHANNELS:
        inputs = inputs.transpose(0, 2, 3, 1)  # channels first
    if inputs.ndim not in (3, 4) or (inputs.ndim == 4 and inputs.shape[3] not in CHANNELS):
        raise UserError(
            f"npz:{place} holds uint8 of shape {inputs.shape}. "
            "Expected images (N, H, W), or (N, H, W, C) of 1, 3 or 4 channels."
        )
    pictures = inputs[..., 0] if inputs.ndim == 4 and inputs.shape[3] == 1 else inputs
    images = [to_pixels(Image.fromarray(np.ascontiguousarray(picture)), preprocessing) for picture in pictures]
    return from_arrays(torch.stack(images) if images else inputs, labels, preprocessing)
