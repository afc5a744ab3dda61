"""Columns of images and labels, as parquet files and the Hugging Face hub hold them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lana.data.split import Split
from lana.errors import UserError

logger = logging.getLogger(__name__)

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


def test_part(parts: Mapping[str, Split], where: str) -> Split | None:
    """The first part with labels, since published test parts often withhold them and write -1; it is told of others."""
    labelled = [name for name, split in parts.items() if split.labels is None or (split.labels >= 0).any()]
    for name in labelled or parts:
        if others := [other for other in parts if other != name]:
            logger.info(
                f"{where}: {name} is the test part; {', '.join(others)} is not read. "
                "Choices are made on a part of train. A function of your own may return (train, validation, test)."
            )
        return parts[name]
    return None
