"""The student learns from the teacher end to end.

The loss is the distance of the outputs from the teacher's, and the task's own where labels exist (the paper, section
3.4: the teacher's objective plus distillation from its outputs; without distillation it is 0.65 points lower).
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.data import Data
from lana.evaluate import evaluate_module
from lana.expected import with_expected
from lana.precision import autocast, computes_in_bf16, in_full
from lana.run import write
from lana.schedule import learning_rate
from lana.task import Task


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How to fine-tune: AdamW, one cycle, an exponential moving average of the weights.

    `distillation` is the weight of the teacher's outputs, the rest goes to the labels; 0.9 leans on the teacher,
    who knows more than the labels do. `compile` fuses what lies between convolutions: about twice as fast, after a
    minute or more of compiling.
    """

    epochs: float = 10.0
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    distillation: float = 0.9
    ema_epochs: float = 0.5
    clip_norm: float = 5.0
    seed: int = 0
    device: str = "cpu"
    precision: str = "auto"
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of the training curve."""

    epoch: int
    train_loss: float
    validation_metric: float


def finetune(
    student: nn.Module,
    teacher: nn.Module,
    data: Data,
    task: Task,
    settings: FineTuning,
    *,
    checkpoint: Path,
    expected: Path | None = None,
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> list[Epoch]:
    """Train `student` in place; returns the curve. The best epoch by the validation part is kept, the start included.

    After every epoch a checkpoint is written, from which the same call goes on and ends with the same weights.
    `expected` is a folder for the teacher's outputs: other students of the same teacher, data and seed find them there.
    """
    device, steps_an_epoch = settings.device, data.train.steps(settings.batch_size)
    steps = round(settings.epochs * steps_an_epoch)
    student.to(device)
    if computes_in_bf16(device, settings.precision):
        _laid_out(student, torch.channels_last)  # what bfloat16 kernels want, else every convolution reorders
    optimiser = torch.optim.AdamW(_decayed(student, settings.weight_decay), lr=settings.lr)
    average = copy.deepcopy(student)
    best = copy.deepcopy(student.state_dict())
    curve = [Epoch(epoch=0, train_loss=math.nan, validation_metric=_metric(student, data, task, device))]
    if checkpoint.is_file():
        curve, best = _resume(checkpoint, student, average, optimiser)
    forward = torch.compile(student, dynamic=False) if settings.compile else student
    decay = math.exp(-1 / max(1.0, settings.ema_epochs * steps_an_epoch))
    for epoch in range(len(curve) - 1, math.ceil(settings.epochs)):
        student.train()
        losses = []
        batches = data.train.epoch(settings.batch_size, seed=settings.seed * 1000 + epoch, augment=True, device=device)
        name = f"{settings.seed}-{epoch}-{settings.batch_size}-{settings.precision}.pt"
        taught = with_expected(
            teacher if settings.distillation else None,
            batches,
            device=device,
            precision=settings.precision,
            kept=expected / name if expected is not None else None,
        )
        torch.manual_seed(settings.seed * 1000 + epoch)  # dropout: an epoch draws the same numbers when resumed
        for index, (inputs, labels, target) in enumerate(taught):
            step = epoch * steps_an_epoch + index
            if step >= steps:
                break
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, settings.lr)
            with autocast(device, settings.precision):
                output = forward(inputs)
            loss = _loss(in_full(output), target, labels, task, settings)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), settings.clip_norm)
            optimiser.step()
            _follow(average, student, min(decay, (step + 1) / (step + 10)))
            losses.append(loss.item())
            on_progress((step + 1) / steps, f"loss {losses[-1]:.3f}")
        metric = _metric(average, data, task, device)
        if metric >= max(row.validation_metric for row in curve):
            best = copy.deepcopy(average.state_dict())
        curve.append(Epoch(epoch=epoch + 1, train_loss=sum(losses) / max(len(losses), 1), validation_metric=metric))
        _save(checkpoint, student, average, optimiser, curve, best)
    student.load_state_dict(best)
    _laid_out(student.eval().cpu(), torch.contiguous_format)
    return curve


def _laid_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    module.to(memory_format=memory_format)  # type: ignore[call-overload]


def _loss(output: Any, expected: Any, labels: Tensor, task: Task, settings: FineTuning) -> Tensor:
    parts = []
    if settings.distillation > 0:
        parts.append(settings.distillation * task.distance(output, expected).mean())
    if settings.distillation < 1:
        parts.append((1 - settings.distillation) * task.loss(output, labels).mean())
    return torch.stack(parts).sum()


def _decayed(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels, none for biases and normalisation."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _follow(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the student's; buffers (BatchNorm statistics) likewise, counters copied."""
    ours, theirs = average.state_dict(), student.state_dict()
    for name, value in ours.items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 1 - decay)
        else:
            value.copy_(theirs[name])


def _metric(module: nn.Module, data: Data, task: Task, device: str) -> float:
    return evaluate_module(module, data.validation, task, device=device).metric


def _save(
    path: Path,
    student: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    curve: list[Epoch],
    best: dict[str, Tensor],
) -> None:
    memory = io.BytesIO()
    state = {
        "student": student.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "curve": [vars(row) for row in curve],
        "best": best,
    }
    torch.save(state, memory)
    write(path, lambda beside: beside.write_bytes(memory.getvalue()))


def _resume(
    path: Path, student: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[list[Epoch], dict[str, Tensor]]:
    state = torch.load(path, weights_only=True)
    student.load_state_dict(state["student"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return [Epoch(**row) for row in state["curve"]], state["best"]
