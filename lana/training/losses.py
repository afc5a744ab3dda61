"""The loss of fine-tuning: distance to the teacher, and the task's loss on labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lana.config.options import FineTuning
from lana.data.augmentation import Mixed
from lana.evaluation.task import Task


def student_loss(output: Any, teacher_output: Any, labels: Tensor | Mixed, task: Task, settings: FineTuning) -> Tensor:
    parts = []
    if settings.distillation > 0:
        softened = [_softened(logits, settings.temperature) for logits in (output, teacher_output)]
        distance = settings.temperature**2 * task.distance(*softened).mean()  # the square keeps the gradient's scale
        parts.append(settings.distillation * distance)
    if settings.distillation < 1:
        parts.append((1 - settings.distillation) * _labelled(output, labels, task))
    return torch.stack(parts).sum()


def _labelled(output: Any, labels: Tensor | Mixed, task: Task) -> Tensor:
    if not isinstance(labels, Mixed):
        return task.loss(output, labels).mean()
    own, partner = task.loss(output, labels.own).mean(), task.loss(output, labels.partner).mean()
    return labels.share * own + (1 - labels.share) * partner


def _softened(output: Any, temperature: float) -> Any:
    if temperature == 1:
        return output
    return tree_map(lambda leaf: leaf / temperature if isinstance(leaf, Tensor) else leaf, output)
