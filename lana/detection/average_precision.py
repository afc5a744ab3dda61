"""Mean average precision by COCO's rules, of images whose detections were matched one by one.

Matching is done once an image; the figure of any set of images follows from the records: a bootstrap draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_A_CLASS = 100  # detections of an image that count

Record = Mapping[str, Tensor]


def record(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, true_boxes: np.ndarray, true_classes: np.ndarray,
    crowd: np.ndarray,
) -> Record:  # fmt: skip
    """The record of an image: its detections' scores and classes, which of them are right or ignored at each overlap.

    `wanted` are the classes of the boxes that should be found. Detections come the best first.
    """
    hit, ignored = (np.zeros((len(scores), len(THRESHOLDS)), bool) for _ in range(2))
    counted = np.zeros(len(scores), bool)
    for kind in np.unique(classes):
        mine, theirs = np.flatnonzero(classes == kind)[:MOST_A_CLASS], true_classes == kind
        counted[mine] = True
        if theirs.any():
            hit[mine], ignored[mine] = _matched(boxes[mine], true_boxes[theirs], crowd[theirs])
    return {
        "scores": torch.from_numpy(scores[counted].astype(np.float64)),
        "classes": torch.from_numpy(classes[counted].astype(np.int64)),
        "hit": torch.from_numpy(hit[counted]),
        "ignored": torch.from_numpy(ignored[counted]),
        "wanted": torch.from_numpy(true_classes[~crowd].astype(np.int64)),
    }


def _matched(boxes: np.ndarray, true_boxes: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Detections of one class, the best first, matched greedily at each threshold: right ones, and ignored ones.

    A box is matched once, a crowd any number of times, and only by what fits no box. Of equal overlaps the last counts.
    """
    order = np.argsort(crowd, kind="stable")
    true_boxes, crowd = true_boxes[order], crowd[order]
    shared, least = _overlaps(boxes, true_boxes, crowd), np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    taken = np.zeros((len(THRESHOLDS), len(crowd)), bool)
    hit, ignored = (np.zeros((len(boxes), len(THRESHOLDS)), bool) for _ in range(2))
    rows = np.arange(len(THRESHOLDS))
    for index in np.flatnonzero(shared.max(1) >= THRESHOLDS[0]):
        fits = np.where((shared[index] >= least) & (crowd | ~taken), shared[index], -1.0)
        for those, found in ((~crowd, hit), (crowd, ignored)):
            values = np.where(those, fits, -1.0)
            best = values.shape[1] - 1 - values[:, ::-1].argmax(1)
            right = (values[rows, best] >= 0) & ~hit[index]
            found[index] |= right
            taken[rows[right], best[right]] = True
    return hit, ignored


def _overlaps(boxes: np.ndarray, true_boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union; over the detection's area alone where the other is a crowd."""
    boxes, true_boxes = boxes.astype(np.float64), true_boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], true_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], true_boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    mine, theirs = ((some[:, 2:] - some[:, :2]).prod(1) for some in (boxes, true_boxes))
    union = np.where(crowd[None], mine[:, None], mine[:, None] + theirs[None] - shared)
    return shared / np.maximum(union, 1e-12)


def mean_average_precision(records: Sequence[Record]) -> np.ndarray:
    """The mean over classes of the average precision, at each of the overlaps 0.50, 0.55 … 0.95.

    Classes that no image has a box of do not count; nan where there is none at all.
    """
    parts = {name: np.concatenate([one[name].numpy() for one in records]) for name in records[0]}
    averages = []
    for kind, wanted in zip(*np.unique(parts["wanted"], return_counts=True), strict=True):
        mine = parts["classes"] == kind
        order = np.argsort(-parts["scores"][mine], kind="stable")
        averages.append(_averages(parts["hit"][mine][order], parts["ignored"][mine][order], int(wanted)))
    return np.mean(averages, 0) if averages else np.full(len(THRESHOLDS), np.nan)


def _averages(hit: np.ndarray, ignored: np.ndarray, wanted: int) -> np.ndarray:
    """The average precision of a class at each threshold: the mean of its precision at 101 recalls."""
    right, wrong = np.cumsum(hit & ~ignored, 0), np.cumsum(~hit & ~ignored, 0)
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    averages = np.zeros(len(THRESHOLDS))
    for column in range(len(THRESHOLDS)):
        at = np.searchsorted(right[:, column] / wanted, RECALLS, side="left")
        averages[column] = np.append(precision[:, column], 0.0)[at].mean()
    return averages
