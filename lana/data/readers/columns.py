"""Columns of images and labels, as parquet files and the Hugging Face hub hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from lana.data.split import Split
from lana.errors import UserError

IMAGES, LABELS = ("image", "img"), ("label", "fine_label", "labels")  # names of columns


def image_and_label(columns: Collection[str], where: str) -> tuple[str, str]:
    """The columns that hold the images and the labels.

    Raises:
        UserError: one of them is missing.
    """
    image, label = (next((name for name in known if name in columns), None) for known in (IMAGES, LABELS))
    if image is None or label is None:
        raise UserError(f"{where} has the columns {', '.join(columns)}; expected 'image' and 'label'.")
    return image, label


def class_numbers(labels: Sequence[Any], where: str) -> np.ndarray:
    """The labels as an array.

    Raises:
        UserError: they are no numbers of classes.
    """
    found = np.array(labels)
    if found.dtype.kind not in "iu":
        raise UserError(f"{where} holds {labels[:1]!r} among others. Expected the numbers of classes, from 0.")
    return found


def first_labelled(splits: Iterable[Split]) -> Split | None:
    """The first split with labels: published test parts often withhold them and write -1."""
    first = None
    for split in splits:
        if split.labels is None or (split.labels >= 0).any():
            return split
        first = first or split
    return first
