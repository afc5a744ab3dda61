"""The student learns from the teacher end to end.

The loss is the distance of the outputs from the teacher's, and the task's own where labels exist (the paper, section
3.4: the teacher's objective plus distillation from its outputs; without distillation it is 0.65 points lower).
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lana.augment import Mixed, augmented, resolve
from lana.batchnorm import reestimate_batchnorm
from lana.data import Data
from lana.evaluation import evaluate_module
from lana.expected import with_expected
from lana.feature_terms import FeatureTerms
from lana.precision import autocast, computes_in_bf16, in_full
from lana.run import write
from lana.schedule import learning_rate
from lana.task import Task


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How to fine-tune: one cycle of the learning rate, an exponential moving average of the weights.

    `distillation` is the weight of the teacher's outputs, the rest goes to the labels; 0.9 leans on the teacher,
    who knows more than the labels do, and 1 needs no labels. `patience` is the number of epochs without a better
    validation metric after which it stops. What the other fields mean is told by `lana.recipe.Recipe`.
    """

    epochs: float = 10.0
    batch_size: int = 64
    optimiser: str = "adamw"
    lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    distillation: float = 0.9
    temperature: float = 1.0
    feature_weight: float = 0.0
    augmentation: str = "auto"
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_epochs: float = 0.5
    clip_norm: float = 5.0
    patience: int | None = None
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
    optimiser = _optimiser(student, settings)
    average = copy.deepcopy(student)
    best = copy.deepcopy(student.state_dict())
    curve = [Epoch(epoch=0, train_loss=math.nan, validation_metric=_metric(student, data, task, device))]
    if checkpoint.is_file():
        curve, best = _resume(checkpoint, student, average, optimiser)
    terms = FeatureTerms(student, teacher) if settings.feature_weight else None
    augmentation = resolve(settings.augmentation, tuple(data.train.read(data.train.indices[:1])[0].shape[1:]))
    forward = torch.compile(student, dynamic=False) if settings.compile else student
    reach = settings.ema_epochs * steps_an_epoch
    decay = math.exp(-1 / reach) if reach else 0.0
    for epoch in range(len(curve) - 1, math.ceil(settings.epochs)):
        if _stopped(curve, settings.patience):
            break
        student.train()
        losses = []
        seed = settings.seed * 1000 + epoch
        batches = augmented(
            data.train.epoch(settings.batch_size, seed=seed, augment=augmentation == "shift", device=device),
            crop=augmentation == "crop" and data.train.preprocessing is not None,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            seed=seed,
        )
        name = f"{settings.seed}-{epoch}-{settings.batch_size}-{settings.precision}{_view(settings, augmentation)}.pt"
        taught = with_expected(
            teacher if settings.distillation or terms else None,
            batches,
            device=device,
            precision=settings.precision,
            kept=expected / name if expected is not None and terms is None else None,
        )
        torch.manual_seed(seed)  # dropout: an epoch draws the same numbers when resumed
        with terms.watching() if terms is not None else contextlib.nullcontext():
            for index, (inputs, labels, target) in enumerate(taught):
                step = epoch * steps_an_epoch + index
                if step >= steps:
                    break
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(step, steps, settings.lr, settings.warmup)
                with autocast(device, settings.precision):
                    output = forward(inputs)
                loss = _loss(in_full(output), target, labels, task, settings)
                if terms is not None:
                    loss = loss + settings.feature_weight * terms.distance()
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
    _settle_batchnorm(student, data, task, settings, max(row.validation_metric for row in curve), curve)
    _laid_out(student.eval().cpu(), torch.contiguous_format)
    return curve


def _laid_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    module.to(memory_format=memory_format)  # type: ignore[call-overload]


def _loss(output: Any, expected: Any, labels: Tensor | Mixed, task: Task, settings: FineTuning) -> Tensor:
    parts = []
    if settings.distillation > 0:
        softened = [_softened(logits, settings.temperature) for logits in (output, expected)]
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


def _view(settings: FineTuning, augmentation: str) -> str:
    """What else than seed, epoch and batch decides what the teacher sees: kept outputs are only for just that."""
    mixed = f"-mixup{settings.mixup:g}-cutmix{settings.cutmix:g}" if settings.mixup or settings.cutmix else ""
    return ("" if augmentation == "shift" else f"-{augmentation}") + mixed


def _stopped(curve: list[Epoch], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing better than what was there before them."""
    if patience is None or len(curve) <= patience:
        return False
    metrics = [row.validation_metric for row in curve]
    return max(metrics[-patience:]) <= max(metrics[:-patience])


def _settle_batchnorm(
    student: nn.Module, data: Data, task: Task, settings: FineTuning, best: float, curve: list[Epoch]
) -> None:
    """Re-estimate BatchNorm statistics of what was trained; kept unless the validation part speaks against it."""
    if curve[0].validation_metric == best and all(row.validation_metric < best for row in curve[1:]):
        return  # the start itself was best
    before = copy.deepcopy(student.state_dict())
    if reestimate_batchnorm(student, data.train, device=settings.device) and (
        _metric(student, data, task, settings.device) < best
    ):
        student.load_state_dict(before)


def _optimiser(student: nn.Module, settings: FineTuning) -> torch.optim.Optimizer:
    groups = _decayed(student, settings.weight_decay)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.lr)


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
