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

MAX_OUTPUT_BYTES = 1 << 30  # of the teacher; class maps of a thousand images are twenty times as large


class DistanceToTeacher:
    """The distance of networks from the teacher on a split.

    The teacher runs once, if its outputs fit in memory and the split gives the same inputs at each reading.
    """

    def __init__(self, teacher: nn.Module, split: Split, task: Task, compute: Compute = CPU_FP32) -> None:
        self.teacher, self.split, self.task, self.compute = teacher, split, task, compute
        self.outputs: list[Any] = []
        if split.varies:
            return
        with evaluating(teacher, compute), torch.no_grad():
            for inputs, _ in split.batches(EVALUATION_BATCH, device=compute.device):
                self.outputs.append(teacher(inputs))
                if bytes_of(self.outputs) > MAX_OUTPUT_BYTES:
                    self.outputs = []
                    break

    def measure(self, module: nn.Module) -> Tensor:
        """The task's distance between the outputs, (N,), in evaluation mode."""
        distances = []
        with contextlib.ExitStack() as both, torch.no_grad():
            for network in (module,) if self.outputs else (module, self.teacher):
                both.enter_context(evaluating(network, self.compute))
            for index, (inputs, _) in enumerate(self.split.batches(EVALUATION_BATCH, device=self.compute.device)):
                expected = self.outputs[index] if self.outputs else self.teacher(inputs)
                distances.append(self.task.distance(in_full(module(inputs)), in_full(expected)).cpu())
        return torch.cat(distances)
