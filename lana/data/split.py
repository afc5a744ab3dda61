"""A split of examples, the three splits of a data set, and their division."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lana.data.augmentation import shift_and_flip
from lana.errors import UserError
from lana.models.teacher import Preprocessing

VALIDATION_SHARE = 0.1

TEST_SHARE = 0.2  # of a data set that comes without a test split


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Some examples: `read(indices)` gives inputs (n, …) and labels (n, …); images as uint8 before normalisation.

    `labels` is None where examples have none or they are not one number each.
    """

    read: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    indices: np.ndarray
    labels: np.ndarray | None
    preprocessing: Preprocessing | None

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, count: int, seed: int = 0) -> Split:
        """A seeded random part of at most `count` examples."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return self.part(chosen)

    def part(self, positions: np.ndarray) -> Split:
        labels = None if self.labels is None else self.labels[positions]
        return Split(read=self.read, indices=self.indices[positions], labels=labels, preprocessing=self.preprocessing)

    def batches(self, size: int, *, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in order: inputs (≤ size, …) ready for the network, and labels."""
        for start in range(0, len(self), size):
            yield self._batch(self.indices[start : start + size], device)

    def epoch(
        self, size: int, *, seed: int, augment: bool = False, device: str = "cpu", share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in an order decided by the seed, in full batches of `size` (fewer where there are fewer).

        `share` (i, n) gives the i-th of n equal parts of every batch: n processes together see what one would.
        """
        size, (part, parts) = min(size, len(self)), share
        order = np.random.default_rng(seed).permutation(self.indices)
        generator = torch.Generator().manual_seed(seed * parts + part)
        for start in range(0, len(order) - size + 1, size):
            inputs, labels = self._batch(order[start + part : start + size : parts], device)
            if (
                augment and self.preprocessing is not None and labels.ndim == 1
            ):  # maps of labels would have to move along
                inputs = shift_and_flip(inputs, generator, flip=self.preprocessing.channels == 3)
            yield inputs, labels

    def steps(self, size: int) -> int:
        """Batches in one `epoch`."""
        return len(self) // min(size, len(self))

    def _batch(self, indices: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
        inputs, labels = self.read(indices)
        inputs, labels = inputs.to(device), labels.to(device)
        if not labels.is_floating_point():
            labels = labels.long()  # the only one that losses take
        if self.preprocessing is not None:
            mean, std = (
                torch.tensor(values, device=device).view(1, -1, 1, 1)
                for values in (self.preprocessing.mean, self.preprocessing.std)
            )
            inputs = (inputs.float() / 255 - mean) / std
        return inputs, labels


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
        raise UserError(f"{len(split)} examples are too few to set {share:.0%} of them apart. Give more data.")
    return split.part(np.flatnonzero(~second)), split.part(np.flatnonzero(second))


def from_arrays(inputs: np.ndarray | Tensor, labels: np.ndarray | Tensor, preprocessing: Preprocessing | None) -> Split:
    """A split that lies in memory; whole numbers as labels are classes.

    Raises:
        UserError: there is not one label for each input, or no input at all.
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
