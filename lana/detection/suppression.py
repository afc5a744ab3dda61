"""Candidates to detections: the best class of each box, and no second box where one is better."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lana.detection.geometry import overlaps

LEAST_SCORE, MOST_CANDIDATES, MOST_DETECTIONS = 0.001, 1000, 100  # as COCO is evaluated


class Detections(NamedTuple):
    """The detections of an image, the best first: boxes (n, 4), scores (n,) and classes (n,)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def detections(boxes: Tensor, scores: Tensor, overlap: float | None, *, least: float = LEAST_SCORE) -> Detections:
    """The detections among the candidates (K, 4) with class scores (K, C).

    An `overlap` of None is for what needs no suppression. Scores that are no numbers are no detections.
    """
    boxes, scores = boxes.float().cpu(), scores.float().cpu().nan_to_num(0.0)
    best, classes = scores.max(1)
    order = best.argsort(descending=True, stable=True)
    order = order[(best[order] > least) & boxes[order].isfinite().all(1)][:MOST_CANDIDATES]
    boxes, best, classes = boxes[order], best[order], classes[order]
    if overlap is not None:
        covers = ((overlaps(boxes, boxes) > overlap) & (classes[:, None] == classes[None])).numpy()
        alive = torch.ones(len(order), dtype=torch.bool).numpy()
        for index in range(len(order)):
            if alive[index]:
                alive[index + 1 :] &= ~covers[index, index + 1 :]
        kept = torch.from_numpy(alive.nonzero()[0])
        boxes, best, classes = boxes[kept], best[kept], classes[kept]
    return Detections(boxes[:MOST_DETECTIONS], best[:MOST_DETECTIONS], classes[:MOST_DETECTIONS])
