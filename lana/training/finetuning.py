"""The student learns from the teacher end to end.

The loss is the distance of the outputs from the teacher's, and the task's own where labels exist (the paper, section
3.4: the teacher's objective plus distillation from its outputs; without distillation it is 0.65 points lower).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.data.augmentation import augmented, resolve
from lana.data.split import Data
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Task
from lana.networks.mixed_precision import Compute, in_full
from lana.networks.onednn_workaround import strides_as_slices
from lana.training.batchnorm import reestimate_batchnorm
from lana.training.cuda_graphs import Step, recorded
from lana.training.distributed import Alone
from lana.training.feature_loss import FeatureTerms
from lana.training.losses import student_loss
from lana.training.optimizers import make_optimizer
from lana.training.schedule import learning_rate
from lana.training.settings import FineTuning
from lana.training.state import NOT_BY_HEART, Course, Epoch
from lana.training.teacher_cache import with_expected

TOLD = 16  # steps between two losses that are shown: to know one, the processor waits for the GPU

Number = float | Tensor  # a tensor in a recorded step


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
    early epochs still some of them (`lana.training.state`).

    After every epoch a checkpoint is written, from which the same call goes on and ends with the same weights. One of
    other settings is not taken up.
    `expected` is a folder for the teacher's outputs: other students of the same teacher, data and seed find them there.
    A student that an epoch ruins goes back to its best and on at a quarter of the rate.
    In a `team` of several processes each calls this with the same arguments, and all end with the same weights.
    """
    team = team or Alone(settings.device)
    student.to(team.device)
    with strides_as_slices([student]), Compute(team.device, settings.precision).channels_last([student]):
        course = Course(student, make_optimizer(student, settings), start_share, settings.epochs)
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
        self.compute, self.on_progress = Compute(team.device, settings.precision), on_progress
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
        with self.compute.autocast():
            output = self.forward(inputs)
        loss = student_loss(in_full(output), target, labels, self.task, settings)
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
        compute=Compute(team.device, settings.precision),
        # What a function reads may be augmented: other batches every time.
        kept=expected / name if expected is not None and train.labels is not None else None,
    )


def _seed(settings: FineTuning, epoch: int) -> int:
    return settings.seed * 1000 + epoch


def _view(settings: FineTuning, augmentation: str) -> str:
    """What else than seed, epoch and batch decides what the teacher sees: kept outputs are only for just that."""
    mixed = f"-mixup{settings.mixup:g}-cutmix{settings.cutmix:g}" if settings.mixup or settings.cutmix else ""
    return ("" if augmentation == "shift" else f"-{augmentation}") + mixed


def _settle_batchnorm(student: nn.Module, data: Data, task: Task, team: Alone, best: float) -> None:
    """Re-estimate BatchNorm statistics of what was trained; kept unless the validation part speaks against it."""
    before = copy.deepcopy(student.state_dict())
    if (
        reestimate_batchnorm(student, data.train, compute=Compute(team.device))
        and _metric(student, data, task, team) < best
    ):
        student.load_state_dict(before)


def _metric(module: nn.Module, data: Data, task: Task, team: Alone) -> float:
    return evaluate_module(module, data.validation, task, device=team.device).metric
