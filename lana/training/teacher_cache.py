"""The teacher's outputs on the batches of an epoch: computed once, and kept for the next student of the same seed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lana.common.files import save_torch
from lana.evaluation.metrics import evaluating
from lana.networks.mixed_precision import Compute, in_full
from lana.networks.structure import bytes_of

MOST_BYTES = 64 << 20  # of an epoch: the logits of a small data set fit, a segmentation is computed at every use
MOST_IN_ALL = 2 << 30  # of the epochs of all seeds and settings that lie in one folder


def with_expected(
    teacher: nn.Module | None,
    batches: Iterator[tuple[Tensor, Any]],
    *,
    compute: Compute,
    kept: Path | None,
) -> Iterator[tuple[Tensor, Any, Any]]:
    """Every batch with the teacher's outputs on it.

    `kept` is a file for the outputs of just these batches: the teacher runs only where it is not there yet. It is
    written when the last batch was taken, while its folder has room. Without a teacher nothing is expected.
    """
    if teacher is None:
        yield from ((inputs, labels, None) for inputs, labels in batches)
        return
    if kept is not None and kept.is_file():
        for (inputs, labels), expected in zip(batches, torch.load(kept, weights_only=True), strict=True):
            yield inputs, labels, tree_map(lambda leaf: leaf.to(compute.device), expected)
        return
    found: list[Any] = []
    with evaluating(teacher, Compute(compute.device)), compute.channels_last([teacher]):
        for inputs, labels in batches:
            with torch.no_grad(), compute.autocast():
                expected = in_full(teacher(inputs))
            if kept is not None and _plain(expected) and len(found) * bytes_of(expected) <= MOST_BYTES:
                found.append(tree_map(lambda leaf: leaf.cpu(), expected))
            else:
                kept = None
            yield inputs, labels, expected
    if kept is not None:
        there = sum(path.stat().st_size for path in kept.parent.glob(f"*{kept.suffix}"))
        if there + bytes_of(found) <= MOST_IN_ALL:
            save_torch(kept, found)


def _plain(output: Any) -> bool:
    """Whether an output can be read back: of classes that are not Python's own nothing is unpickled."""
    if type(output) in (tuple, list):
        return all(map(_plain, output))
    if type(output) in (dict, OrderedDict):  # what torchvision's networks for segmentation give
        return all(map(_plain, output.values()))
    return isinstance(output, Tensor)
