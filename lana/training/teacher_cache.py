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

MAX_EPOCH_BYTES = 64 << 20  # the logits of a small data set fit; those of a segmentation are computed at every use
MAX_FOLDER_BYTES = 2 << 30  # the epochs of all seeds and settings


def with_teacher_outputs(
    teacher: nn.Module | None,
    batches: Iterator[tuple[Tensor, Any]],
    *,
    compute: Compute,
    path: Path | None,
) -> Iterator[tuple[Tensor, Any, Any]]:
    """Every batch with the teacher's outputs on it.

    `path` is a file for the outputs on exactly these batches: the teacher runs only where it does not exist. It is
    written after the last batch, while its folder has room. Without a teacher the outputs are None.
    """
    if teacher is None:
        yield from ((inputs, labels, None) for inputs, labels in batches)
        return
    if path is not None and path.is_file():
        for (inputs, labels), output in zip(batches, torch.load(path, weights_only=True), strict=True):
            yield inputs, labels, tree_map(lambda leaf: leaf.to(compute.device), output)
        return
    computed: list[Any] = []
    with evaluating(teacher, Compute(compute.device)), compute.channels_last([teacher]):
        for inputs, labels in batches:
            with torch.no_grad(), compute.autocast():
                output = in_full(teacher(inputs))
            if path is not None and _plain(output) and len(computed) * bytes_of(output) <= MAX_EPOCH_BYTES:
                computed.append(tree_map(lambda leaf: leaf.cpu(), output))
            else:
                path = None
            yield inputs, labels, output
    if path is not None:
        stored_bytes = sum(file.stat().st_size for file in path.parent.glob(f"*{path.suffix}"))
        if stored_bytes + bytes_of(computed) <= MAX_FOLDER_BYTES:
            save_torch(path, computed)


def _plain(output: Any) -> bool:
    """True for an output that can be read back: nothing but tensors in Python's own containers is unpickled."""
    if type(output) in (tuple, list):
        return all(map(_plain, output))
    if type(output) in (dict, OrderedDict):  # torchvision's segmentation networks return them
        return all(map(_plain, output.values()))
    return isinstance(output, Tensor)
