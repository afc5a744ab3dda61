"""Boxes x1 y1 x2 y2: their overlaps."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-9


def areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlaps(ours: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union of every box of (n, 4) with every one of (m, 4): (n, m).

    >>> overlaps(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([[0.3333]])
    """
    low, high = (
        torch.maximum(ours[:, None, :2], theirs[None, :, :2]),
        torch.minimum(ours[:, None, 2:], theirs[None, :, 2:]),
    )
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (areas(ours)[:, None] + areas(theirs)[None] - shared).clamp(min=SMALLEST)


def generalized_overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Generalised intersection over union of boxes that belong together, (…, 4) → (…): −1 (far apart) to 1 (equal)."""
    low, high = torch.maximum(ours[..., :2], theirs[..., :2]), torch.minimum(ours[..., 2:], theirs[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = areas(ours) + areas(theirs) - shared
    around = torch.minimum(ours[..., :2], theirs[..., :2]), torch.maximum(ours[..., 2:], theirs[..., 2:])
    hull = (around[1] - around[0]).clamp(min=0).prod(-1)
    # Equal boxes without any area are equal: 0/0 counts as 1.
    return (shared + SMALLEST) / (union + SMALLEST) - (hull - union).clamp(min=0) / (hull + SMALLEST)


def corners(boxes: Tensor) -> Tensor:
    """Centre x, centre y, width, height → corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)
