"""A split of examples, the three splits of a data set, and their division."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lana.data.augmentation import free_of_place, shift_and_flip
from lana.errors import LanaError, UserError
from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher

VALIDATION_SHARE = 0.1

TEST_SHARE = 0.2  # of a data set that comes without a test split


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Some examples: `read(indices)` gives inputs (n, …) and labels (n, …); images as uint8 before normalisation.

    `labels` is None where examples have none or they are not one number each. With `workers`, so many processes read
    the next batches ahead; `read` is then picklable. Where the split `varies`, each reading gives other inputs: nothing
    that was computed on one reading holds for the next. Of boxes, `labelled` is false where nobody drew any.
    """

    read: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    indices: np.ndarray
    labels: np.ndarray | None
    preprocessing: Preprocessing | None
    workers: int = 0
    varies: bool = False
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, count: int, seed: int = 0) -> Split:
        """A seeded random part of at most `count` examples."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return self.part(chosen)

    def part(self, positions: np.ndarray) -> Split:
        labels = None if self.labels is None else self.labels[positions]
        return replace(self, indices=self.indices[positions], labels=labels)

    def batches(self, size: int, *, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in order: inputs (≤ size, …) ready for the network, and labels."""
        for batch in self._read_ahead([self.indices[start : start + size] for start in range(0, len(self), size)]):
            yield self._prepared(*batch, device)

    def epoch(
        self, size: int, *, seed: int, augment: bool = False, device: str = "cpu", share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in an order decided by the seed, in full batches of `size` (fewer where there are fewer).

        `share` (i, n) gives the i-th of n equal parts of every batch: n processes together see what one would.
        """
        size, (part, parts) = min(size, len(self)), share
        order = np.random.default_rng(seed).permutation(self.indices)
        generator = torch.Generator().manual_seed(seed * parts + part)
        starts = range(0, len(order) - size + 1, size)
        for batch in self._read_ahead([order[start + part : start + size : parts] for start in starts]):
            inputs, labels = self._prepared(*batch, device)
            if augment and self.preprocessing is not None and free_of_place(labels):
                inputs = shift_and_flip(inputs, generator, flip=self.preprocessing.channels == 3)
            yield inputs, labels

    def steps(self, size: int) -> int:
        """Batches in one `epoch`."""
        return len(self) // min(size, len(self))

    def _read_ahead(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches as they are read, in order; by worker processes where the split has some."""
        workers = min(self.workers, len(batches))
        if workers < 2 or multiprocessing.current_process().daemon:  # a daemon may not start processes
            yield from map(self.read, batches)
            return
        loader = DataLoader(
            _Batches(self.read, batches),
            batch_size=None,
            shuffle=False,
            num_workers=workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # the loader draws a seed: not from the numbers that training draws from
        )
        for content in loader:
            if isinstance(content, LanaError):
                raise content
            inputs, labels = map(torch.from_numpy, content)
            yield inputs, labels

    def _prepared(self, inputs: Tensor, labels: Tensor, device: str) -> tuple[Tensor, Tensor]:
        inputs, labels = inputs.to(device), labels.to(device)
        if not labels.is_floating_point():
            labels = labels.long()  # losses take no other whole numbers
        if self.preprocessing is not None:
            mean, std = (
                torch.tensor(values, device=device).view(1, -1, 1, 1)
                for values in (self.preprocessing.mean, self.preprocessing.std)
            )
            inputs = (inputs.float() / 255 - mean) / std
        return inputs, labels


class _Batches(Dataset):
    """Batches as arrays: tensors would travel through shared memory, of which containers have little.

    A user's error is data here, as the loader would wrap its message in a traceback.
    """

    def __init__(self, read: Callable[[np.ndarray], tuple[Tensor, Tensor]], batches: Sequence[np.ndarray]) -> None:
        self.read, self.batches = read, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray] | LanaError:
        try:
            inputs, labels = self.read(self.batches[index])
        except LanaError as error:
            return error
        return inputs.numpy(), labels.numpy()


def _unchanged(batch: Any) -> Any:
    return batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """The three splits and the names of the classes, where known."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...] | None


def split_in_two(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide in two, the second holding `share`; the same share of every class where labels are known.

    Raises:
        UserError: a part would be empty.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(split)) if split.labels is None or split.labels.ndim > 1 else split.labels
    second = np.zeros(len(split), bool)
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        second[positions[: round(share * len(positions))]] = True
    if not second.any():  # too few of each class for its share to be one
        second[rng.permutation(len(split))[: round(share * len(split))]] = True
    if not second.any() or second.all():
        raise UserError(f"{len(split)} examples are too few to hold out {share:.0%} of them. Give more data.")
    return split.part(np.flatnonzero(~second)), split.part(np.flatnonzero(second))


def from_arrays(inputs: np.ndarray | Tensor, labels: np.ndarray | Tensor, preprocessing: Preprocessing | None) -> Split:
    """A split in memory; labels that are whole numbers are classes.

    Raises:
        UserError: inputs and labels differ in number, or there are none.
    """
    held, targets = torch.as_tensor(inputs), torch.as_tensor(labels)
    if len(held) == 0 or len(held) != len(targets):
        raise UserError(f"The data hold {len(held)} inputs and {len(targets)} labels. Give one label for each input.")
    if not targets.is_floating_point() and targets.shape[1:] == (1,):
        targets = targets.squeeze(1)
    return Split(
        read=lambda indices: (held[torch.from_numpy(indices)], targets[torch.from_numpy(indices)]),
        indices=np.arange(len(held)),
        labels=targets.numpy() if not targets.is_floating_point() and targets.ndim == 1 else None,
        preprocessing=preprocessing,
    )


def checked_shape(split: Split, teacher: Teacher, reference: str) -> Split:
    """The split, whose examples have the shape that the teacher takes.

    Raises:
        UserError: they have another shape.
    """
    shape = tuple(split.read(np.array([0]))[0].shape[1:])
    if shape != teacher.input_shape:
        raise UserError(
            f"{reference} gives examples of shape {shape}, the model takes {teacher.input_shape}. "
            "Give --input-shape or --image-size, or prepare the examples accordingly."
        )
    return split


def calibration_inputs(split: Split, batch: int) -> list[np.ndarray]:
    """All inputs of a split in full batches, for the ranges of an int8 file of this batch."""
    return [inputs.numpy() for inputs, _ in split.batches(batch) if len(inputs) == batch]
