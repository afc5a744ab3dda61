"""Load examples from a reference, and the splits: train, a validation part of it, and test.

Distilling, scoring, ranking and fine-tuning read `train`; choices are made on `validation`; `test` is read for
reported figures only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lana.common.reference import split_reference
from lana.config.references import check_data
from lana.data.readers.boxed_folder import read_boxed_folder
from lana.data.readers.boxed_parquet import read_boxed_parquet
from lana.data.readers.digits import read_digits
from lana.data.readers.folder import read_folder
from lana.data.readers.function import read_function
from lana.data.readers.hub import read_hub
from lana.data.readers.npz import read_npz
from lana.data.readers.parquet import read_parquet
from lana.data.split import TEST_SHARE, VALIDATION_SHARE, Data, Split, split_in_two
from lana.errors import UserError
from lana.models.teacher import Teacher

logger = logging.getLogger(__name__)


def load_data(reference: str, teacher: Teacher, *, seed: int = 0, box_classes: int | None = None) -> Data:
    """Load the data that `reference` names, preprocessed for the teacher.

    With `box_classes`, the labels are boxes of so many classes.

    Raises:
        UserError: the reference is unknown or empty, images are unreadable (named and counted), examples too few.
    """
    check_data(reference)
    kind, place = split_reference(reference)
    if teacher.preprocessing is not None and kind in (*_READERS, "digits"):  # a function's examples come prepared
        logger.info(f"Images: {teacher.preprocessing}.")
    train: Split
    test: Split | None
    validation: Split | None = None
    classes = None
    if box_classes is not None:
        train, test, classes = _read_boxes(reference, teacher, box_classes)
    elif reference == "digits":
        (train, test), classes = read_digits(teacher)
    elif kind in _READERS:
        (train, test), classes = _READERS[kind](place, teacher)
    else:
        train, validation, test = read_function(kind, place, teacher)
    if test is None:
        train, test = split_in_two(train, TEST_SHARE, seed=0)  # the same for every run, and for `lana evaluate`
    if validation is None:
        train, validation = split_in_two(train, VALIDATION_SHARE, seed)
    return Data(train=train, validation=validation, test=test, classes=classes)


def _read_boxes(reference: str, teacher: Teacher, classes: int) -> tuple[Split, Split | None, tuple[str, ...] | None]:
    kind, place = split_reference(reference)
    readers = {"folder": read_boxed_folder, "parquet": read_boxed_parquet}
    if kind not in readers:
        raise UserError(
            f"--data {reference} holds no boxes that --task detection reads. Expected folder:PATH (YOLO's layout, a "
            "COCO json, or images alone) or parquet:PATH."
        )
    (train, test), names = readers[kind](place, teacher, classes)
    return train, test, names


_READERS: dict[str, Callable[[str, Teacher], Any]] = {
    "folder": read_folder,
    "parquet": read_parquet,
    "npz": read_npz,
    "hf": read_hub,
}
