"""The distance of a detector's candidates from its teacher's, without labels and without suppression."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lana.detection.decoders import Decoded
from lana.detection.geometry import generalized_overlap

BOX_WEIGHT = 2.0  # of boxes against classes, as detectors' own losses have it (YOLOX: 5, DETR: 2)
LEAST_LOGIT = 1e-6  # of a score that a user's function gives: its logit is taken back from it


def distance(ours: Decoded, theirs: Decoded) -> Tensor:
    """The distance of each image, (N,); zero for equal candidates.

    Classes and objectness are compared by cross-entropy above the teacher's entropy, boxes by 1 − GIoU, or by the
    divergence of their bins. A candidate counts by the teacher's score. For its classes it counts by the student's own
    score where that is higher: what the student sees and the teacher does not is wrong as well. An image without any
    object counts as one with one.
    """
    score = theirs.scores.amax(2)
    weight = torch.maximum(score, ours.scores.detach().amax(2))
    boxes = (score * _boxes(ours, theirs)).sum(1)
    return ((weight * _classes(ours, theirs)).sum(1) + BOX_WEIGHT * boxes) / score.sum(1).clamp(min=1.0)


def _classes(ours: Decoded, theirs: Decoded) -> Tensor:
    """(N, K): summed over the classes, and the objectness where there is one."""
    parts = []
    if ours.choices is not None and theirs.choices is not None:
        log = theirs.choices.log_softmax(2)
        parts.append((log.exp() * (log - ours.choices.log_softmax(2))).sum(2))
    if ours.logits is not None and theirs.logits is not None:
        parts.append(_excess(ours.logits, theirs.logits))
    if not parts:
        parts.append(_excess(*(decoded.scores.logit(LEAST_LOGIT) for decoded in (ours, theirs))))
    return torch.stack(parts).sum(0)


def _excess(ours: Tensor, theirs: Tensor) -> Tensor:
    """Binary cross-entropy above the teacher's entropy, summed over the last dimension."""
    target = theirs.sigmoid()
    crosses = [F.binary_cross_entropy_with_logits(logits, target, reduction="none") for logits in (ours, theirs)]
    return (crosses[0] - crosses[1]).sum(2)


def _boxes(ours: Decoded, theirs: Decoded) -> Tensor:
    """(N, K)."""
    if ours.bins is not None and theirs.bins is not None:
        log = theirs.bins.log_softmax(3)
        return (log.exp() * (log - ours.bins.log_softmax(3))).sum(3).mean(2)
    return 1 - generalized_overlap(ours.boxes, theirs.boxes)
