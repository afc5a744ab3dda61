"""The student learns from the teacher end to end.

The loss is the distance of the outputs from the teacher's, and the task's own where labels exist (the paper, section
3.4: the teacher's objective plus distillation from its outputs; without distillation it is 0.65 points lower).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lana.augment import Mixed, augmented, resolve
from lana.batchnorm import reestimate_batchnorm
from lana.course import NOT_BY_HEART, Course, Epoch
from lana.data import Data
from lana.evaluation import evaluate_module
from lana.expected import with_expected
from lana.feature_terms import FeatureTerms
from lana.graphs import Step, recorded
from lana.precision import autocast, channels_last, in_full
from lana.schedule import learning_rate
from lana.strides import strides_as_slices
from lana.task import Task
from lana.team import Alone

TOLD = 16  # steps between two losses that are shown: to know one, the processor waits for the GPU
Number = float | Tensor  # a tensor in a recorded step


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How to fine-tune: one cycle of the learning rate, an exponential moving average of the weights.

    `distillation` is the weight of the teacher's outputs, the rest goes to the labels; 0.9 leans on the teacher,
    who knows more than the labels do, and 1 leaves the labels out of the loss. `patience` is the number of epochs
    without a better validation metric after which it stops. What the other fields mean is told by `lana.recipe.Recipe`.
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

    @property
    def decisive(self) -> dict[str, Any]:
        """What the weights depend on: all but where it is computed."""
        return {name: value for name, value in asdict(self).items() if name not in ("device", "compile")}


def finetune(
    student: nn.Module,
    teacher: nn.Module,
    data: Data,
    task: Task,
    settings: FineTuning,
    *,
    checkpoint: Path,
    expected: Path | None = None,
    team: Alone | None = None,
    start_share: float = NOT_BY_HEART,
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> list[Epoch]:
    """Train `student` in place; returns the curve. The best epoch by the validation part is kept.

    The start is kept only where no epoch comes near `start_share` of its metric: it may know those images by heart, and
    early epochs still some of them (`lana.course`).

    After every epoch a checkpoint is written, from which the same call goes on and ends with the same weights. One of
    other settings is not taken up.
    `expected` is a folder for the teacher's outputs: other students of the same teacher, data and seed find them there.
    A student that an epoch ruins goes back to its best and on at a quarter of the rate.
    In a `team` of several processes each calls this with the same arguments, and all end with the same weights.
    """
    team = team or Alone(settings.device)
    student.to(team.device)
    with strides_as_slices([student]), channels_last([student], team.device, settings.precision):
        course = Course(student, _optimiser(student, settings), start_share, settings.epochs)
        course.begin(team.agreed(lambda: _metric(student, data, task, team)))
        if checkpoint.is_file():
            course.resume(checkpoint, settings.decisive)
        training = _Training(course, teacher, data, task, settings, team, expected, on_progress)
        with contextlib.closing(training):
            for epoch in range(len(course.curve) - 1, math.ceil(settings.epochs)):
                if course.stopped(settings.patience):
                    break
                loss = team.mean(training.epoch(epoch))
                course.record(loss, team.agreed(lambda: _metric(course.average, data, task, team)))
                if course.diverged:
                    course.go_back()
                if team.first:
                    course.save(checkpoint, settings.decisive)
        student.load_state_dict(course.best)
        if team.first and not course.start_is_best:
            _settle_batchnorm(student, data, task, team, course.metric_of_best)
    student.eval().cpu()
    student.load_state_dict(team.agreed(student.state_dict))
    return course.curve


class _Training:
    """The steps of an epoch."""

    def __init__(
        self,
        course: Course,
        teacher: nn.Module,
        data: Data,
        task: Task,
        settings: FineTuning,
        team: Alone,
        expected: Path | None,
        on_progress: Callable[[float, str], None],
    ) -> None:
        self.course, self.data, self.task, self.settings, self.team = course, data, task, settings, team
        self.on_progress = on_progress
        self.steps_an_epoch = data.train.steps(settings.batch_size)
        self.steps = round(settings.epochs * self.steps_an_epoch)
        reach = settings.ema_epochs * self.steps_an_epoch
        self.decay = math.exp(-1 / reach) if reach else 0.0
        self.terms = FeatureTerms(course.student, teacher) if settings.feature_weight else None
        self.teacher = teacher if settings.distillation or self.terms else None
        self.expected = expected if self.terms is None else None
        forward = team.wrap(course.student)
        self.forward = torch.compile(forward, dynamic=False) if settings.compile else forward
        # Compiled, hooked for features, or together with other processes, a step is no CUDA graph.
        plain = settings.compile or self.terms is not None or team.count > 1
        self.step: Step | None = self._step if plain else None
        if not plain and team.device != "cpu":
            for group in course.optimiser.param_groups:
                group["capturable"] = True  # of AdamW; SGD always is

    def close(self) -> None:
        """Let go of the recording, and of the memory that it holds, at once: it is part of a circle of references."""
        self.step = None

    def epoch(self, epoch: int) -> float:
        """Train for one; the mean loss. What is random in it depends on the seed and the epoch alone."""
        team, settings = self.team, self.settings
        losses: list[Tensor] = []
        told = ""
        self.course.student.train()
        batches = taught(self.teacher, self.data, settings, epoch, expected=self.expected, team=team)
        torch.manual_seed(team.seed(_seed(settings, epoch)))  # dropout: an epoch draws the same numbers when resumed
        with self.terms.watching() if self.terms is not None else contextlib.nullcontext():
            for step, taken in enumerate(batches, start=epoch * self.steps_an_epoch):
                if step >= self.steps:
                    break
                rate = learning_rate(step, self.steps, settings.lr * self.course.rate_share, settings.warmup)
                batch = (*taken, rate, 1 - min(self.decay, (step + 1) / (step + 10)))
                if self.step is None:
                    self.step = recorded(self._step, batch, self.course.untouched)
                losses.append(self.step(*batch))
                if step % TOLD == 0 or not told:
                    told = f"loss {losses[-1].item():.3f}"
                self.on_progress((step + 1) / self.steps, told)
        return float(torch.stack(losses).mean()) if losses else 0.0

    def _step(self, inputs: Tensor, labels: Any, target: Any, rate: Number, share: Number) -> Tensor:
        settings, optimiser = self.settings, self.course.optimiser
        for group in optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.team.device, settings.precision):
            output = self.forward(inputs)
        loss = _loss(in_full(output), target, labels, self.task, settings)
        if self.terms is not None:
            loss = loss + settings.feature_weight * self.terms.distance()
        optimiser.zero_grad()
        self.team.backward(loss)
        nn.utils.clip_grad_norm_(self.course.student.parameters(), settings.clip_norm)
        optimiser.step()
        self.course.follow(share)
        return loss.detach()


def taught(
    teacher: nn.Module | None,
    data: Data,
    settings: FineTuning,
    epoch: int,
    *,
    expected: Path | None = None,
    team: Alone | None = None,
) -> Iterator[tuple[Tensor, Any, Any]]:
    """A process's share of every batch of an epoch, augmented, with the teacher's outputs on it.

    They are kept in the folder `expected`, for every student of the same teacher, data and settings of this kind.
    """
    team, train, seed = team or Alone(settings.device), data.train, _seed(settings, epoch)
    augmentation = resolve(settings.augmentation, tuple(train.read(train.indices[:1])[0].shape[1:]))
    shift, crop = (augmentation == name for name in ("shift", "crop"))
    batches = augmented(
        train.epoch(settings.batch_size, seed=seed, augment=shift, device=team.device, share=(team.index, team.count)),
        crop=crop and train.preprocessing is not None,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        seed=team.seed(seed),
    )
    view = _view(settings, augmentation) + (f"-{team.index}of{team.count}" if team.count > 1 else "")
    name = f"{settings.seed}-{epoch}-{settings.batch_size}-{settings.precision}{view}.pt"
    return with_expected(
        teacher,
        batches,
        device=team.device,
        precision=settings.precision,
        # What a function reads may be augmented: other batches every time.
        kept=expected / name if expected is not None and train.labels is not None else None,
    )


def _seed(settings: FineTuning, epoch: int) -> int:
    return settings.seed * 1000 + epoch


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


def _settle_batchnorm(student: nn.Module, data: Data, task: Task, team: Alone, best: float) -> None:
    """Re-estimate BatchNorm statistics of what was trained; kept unless the validation part speaks against it."""
    before = copy.deepcopy(student.state_dict())
    if reestimate_batchnorm(student, data.train, device=team.device) and _metric(student, data, task, team) < best:
        student.load_state_dict(before)


def _optimiser(student: nn.Module, settings: FineTuning) -> torch.optim.Optimizer:
    groups = _decayed(student, settings.weight_decay)
    if settings.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, fused=True)
        # Zeros are as good as none, which the fused step takes for all or for nobody: some gradients may come later.
        for parameter in (p for group in optimiser.param_groups for p in group["params"]):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return optimiser
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def _decayed(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels, none for biases and normalisation."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _metric(module: nn.Module, data: Data, task: Task, team: Alone) -> float:
    return evaluate_module(module, data.validation, task, device=team.device).metric
