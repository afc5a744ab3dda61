"""Data from a function in a user's file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.common.importing import explain_function, function_from_file
from lana.data.split import Split, checked_shape
from lana.errors import UserError
from lana.models.teacher import Teacher


def read_function(path: str, name: str, teacher: Teacher) -> tuple[Split, Split | None]:
    """Read from a function that returns (train, test) or train: sequences of (input, label), inputs ready to use."""
    with explain_function(f"{path}:{name}"):
        returned = function_from_file(path, name, what="data")()
    pair = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    splits = [_dataset_split(part, teacher, f"{path}:{name}") if part is not None else None for part in pair]
    return splits[0], splits[1]  # type: ignore[return-value]


def _dataset_split(dataset: Any, teacher: Teacher, reference: str) -> Split:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        raise UserError(
            f"{reference} returned {type(dataset).__name__}; expected (train, test), sequences of (input, label)."
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
            "Expected (input, label): tensors, arrays or numbers."
        ) from error
    if not first.is_floating_point():
        raise UserError(
            f"{reference} gives inputs of type {str(first.dtype).removeprefix('torch.')}. Expected floats, as the "
            "network takes them: images scaled and normalised."
        )
    split = Split(read=read, indices=np.arange(len(dataset)), labels=None, preprocessing=None)
    return checked_shape(split, teacher, reference)
