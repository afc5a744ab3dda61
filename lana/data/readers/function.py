"""Data from a function in a user's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.common.importing import explain_function, function_from_file
from lana.data.split import Split, checked_shape
from lana.errors import UserError
from lana.models.teacher import Teacher


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
    return train, validation, test


def _dataset_split(dataset: Any, teacher: Teacher, reference: str) -> Split:
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping)
    if not indexed or len(dataset) == 0:
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
    split = Split(read=read, indices=np.arange(len(dataset)), labels=None, preprocessing=None)
    return checked_shape(split, teacher, reference)
