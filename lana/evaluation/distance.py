"""The distance of a network's outputs from the teacher's, without labels."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from lana.data.split import Split
from lana.evaluation.metrics import EVALUATION_BATCH, evaluating
from lana.evaluation.task import Task
from lana.networks.mixed_precision import CPU_FP32, Compute, in_full
from lana.networks.structure import bytes_of

KEPT_BYTES = 1 << 30  # of a teacher's outputs; maps of classes of a thousand images are twenty times as much


class DistanceToTeacher:
    """How far networks are from the teacher on a split; the teacher runs once for all of them, if its outputs fit."""

    def __init__(self, teacher: nn.Module, split: Split, task: Task, compute: Compute = CPU_FP32) -> None:
        self.teacher, self.split, self.task, self.compute = teacher, split, task, compute
        self.kept: list[Any] = []
        with evaluating(teacher, compute), torch.no_grad():
            for inputs, _ in split.batches(EVALUATION_BATCH, device=compute.device):
                self.kept.append(teacher(inputs))
                if bytes_of(self.kept) > KEPT_BYTES:
                    self.kept = []
                    break

    def of(self, module: nn.Module) -> Tensor:
        """The task's distance between the outputs, (N,), in evaluation mode."""
        distances = []
        with contextlib.ExitStack() as both, torch.no_grad():
            for network in (module,) if self.kept else (module, self.teacher):
                both.enter_context(evaluating(network, self.compute))
            for index, (inputs, _) in enumerate(self.split.batches(EVALUATION_BATCH, device=self.compute.device)):
                expected = self.kept[index] if self.kept else self.teacher(inputs)
                distances.append(self.task.distance(in_full(module(inputs)), in_full(expected)).cpu())
        return torch.cat(distances)
