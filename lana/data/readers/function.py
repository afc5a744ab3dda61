"""Data from a function in a user's file."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.common.importing import explain_function, function_from_file
from lana.data.split import Split, checked_shape
from lana.errors import UserError
from lana.models.teacher import Teacher

logger = logging.getLogger(__name__)

READ_TWICE = 32  # examples: a change with a chance of one in ten at each reading is missed once in five hundred times
PARTS = "train, (train, test) or (train, validation, test), each a sequence of (input, label)"


def read_function(path: str, name: str, teacher: Teacher) -> tuple[Split, Split | None, Split | None]:
    """Read train, validation and test from a function that returns them: sequences of (input, label), ready to use.

    It may return train alone, or (train, test); all but train may be None.

    Raises:
        UserError: the function fails or returns anything else.
    """
    reference = f"{path}:{name}"
    with explain_function(reference):
        returned = function_from_file(path, name, what="data")()
    parts = returned if isinstance(returned, tuple) and len(returned) in (2, 3) else (returned,)
    train = _dataset_split(parts[0], teacher, reference)
    held_out = [None if part is None else _dataset_split(part, teacher, reference) for part in parts[1:]]
    validation, test = [None, None, *held_out][-2:]
    _tell_varying(reference, train, validation, test)
    return train, validation, test


def _tell_varying(reference: str, train: Split, validation: Split | None, test: Split | None) -> None:
    parts = {"train": train, "validation": validation, "test": test}
    varying = [name for name, split in parts.items() if split is not None and split.varies]
    if not varying:
        return
    message = (
        f"{reference} gives other examples at each reading ({', '.join(varying)}). "
        "Nothing that was computed on one reading is kept."
    )
    if varying == ["train"] and validation is not None and test is not None:
        logger.info(message)
        return
    logger.warning(
        f"{message} Figures on augmented examples scatter, and parts taken off train are augmented as well: "
        "return (train, validation, test), and augment train alone."
    )


def _dataset_split(dataset: Any, teacher: Teacher, reference: str) -> Split:
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping)
    with explain_function(reference):
        count = len(dataset) if indexed else 0
    if not count:
        raise UserError(
            f"{reference} returned {'an empty ' if indexed else ''}{type(dataset).__name__}; expected {PARTS}."
        )

    def read(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        with explain_function(reference):
            examples = [dataset[int(index)] for index in indices]
            inputs = torch.stack([torch.as_tensor(example[0]) for example in examples])
            return inputs.float(), torch.stack([torch.as_tensor(example[1]) for example in examples])

    with explain_function(reference):
        example = dataset[0]
    try:
        first, _ = (torch.as_tensor(each) for each in example[:2])
    except Exception as error:  # a user's example may be of any class
        parts = ", ".join(type(each).__name__ for each in example) if isinstance(example, (tuple, list)) else ""
        raise UserError(
            f"{reference} gives an example as {type(example).__name__}{f' of {parts}' if parts else ''}. "
            f"Expected (input, label): tensors, arrays or numbers. A function returns {PARTS}."
        ) from error
    if not first.is_floating_point():
        raise UserError(
            f"{reference} gives inputs of type {str(first.dtype).removeprefix('torch.')}. Expected floats, as the "
            "network takes them: images scaled and normalised."
        )
    split = Split(read=read, indices=np.arange(count), labels=None, preprocessing=None)
    return replace(checked_shape(split, teacher, reference), varies=_varies(split))


def _varies(split: Split) -> bool:
    """True where some example differs from itself when it is read again: augmentation at random."""
    chosen = np.linspace(0, len(split) - 1, min(READ_TWICE, len(split))).astype(int)
    with _random_state_kept():
        for index in chosen:
            once, again = (split.read(np.array([index])) for _ in range(2))
            if not all(torch.allclose(*pair, rtol=0, atol=0, equal_nan=True) for pair in zip(once, again, strict=True)):
                return True
    return False


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """The global generators end as they began: what follows draws the same numbers."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
