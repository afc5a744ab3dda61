"""A student learns from its teacher end to end.

The loss is the distance of the outputs from the teacher's, plus the task's own where labels exist (the paper, section
3.4: without distillation the student is 0.65 points lower).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.config.options import FineTuning
from lana.data.augmentation import augmented, resolve
from lana.data.split import Data
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Task
from lana.networks.mixed_precision import Compute, in_full
from lana.networks.onednn_workaround import strides_as_slices
from lana.networks.training_mode import begin_training, trains_alike
from lana.training.batchnorm import reestimate_batchnorm
from lana.training.cuda_graphs import Step, recorded
from lana.training.distributed import SingleProcess
from lana.training.feature_loss import FeatureTerms
from lana.training.losses import student_loss
from lana.training.optimizers import make_optimizer
from lana.training.schedule import learning_rate
from lana.training.state import START_METRIC_RATIO, Epoch, TrainingState
from lana.training.teacher_cache import with_teacher_outputs

STEPS_BETWEEN_LOSSES = 16  # that are shown: to read one, the processor waits for the GPU

Number = float | Tensor  # a tensor in a recorded step


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Everything that students of one teacher are tuned with.

    `group` is the process that trains, or its group. `cached_outputs` is a folder for the teacher's outputs: later
    students of the same teacher, data and seed read them there.
    """

    teacher: nn.Module
    data: Data
    task: Task
    settings: FineTuning
    group: SingleProcess
    cached_outputs: Path | None = None

    @property
    def compute(self) -> Compute:
        return Compute(self.group.device, self.settings.precision)

    def validation_metric(self, module: nn.Module) -> float:
        """The metric of a network by the main process, which the others take."""
        return self.group.broadcast(lambda: self.own_metric(module))

    def own_metric(self, module: nn.Module) -> float:
        return evaluate_module(module, self.data.validation, self.task, device=self.group.device).metric


def finetune(
    student: nn.Module,
    setup: TrainingSetup,
    *,
    checkpoint: Path,
    start_share: float = START_METRIC_RATIO,
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> list[Epoch]:
    """Train `student` in place and return the curve. The best epoch by the validation part is kept.

    The start is kept only where no epoch comes near `start_share` of its metric: it may have memorised those images,
    and early epochs still remember some (`lana.training.state`).

    Every epoch ends with a checkpoint, from which the same call resumes and ends with the same weights. A checkpoint of
    other settings is ignored. A student that an epoch ruins returns to its best and trains on at a quarter
    of the rate.
    In a group each process calls this with the same arguments, and all end with the same weights.
    """
    settings, group = setup.settings, setup.group
    student.to(group.device)
    with strides_as_slices([student]), setup.compute.channels_last([student]):
        state = TrainingState(student, make_optimizer(student, settings), start_share, settings.epochs)
        state.start(setup.validation_metric(student))
        if checkpoint.is_file():
            state.resume(checkpoint, settings.decisive)
        with contextlib.closing(_Training(state, setup, on_progress)) as training:
            for epoch in range(len(state.curve) - 1, math.ceil(settings.epochs)):
                if state.stopped(settings.patience):
                    break
                loss = group.mean(training.epoch(epoch))
                state.record(loss, setup.validation_metric(state.average))
                if state.diverged:
                    state.restore_best()
                if group.is_main:
                    state.save(checkpoint, settings.decisive)
        student.load_state_dict(state.best)
        if group.is_main and not state.start_is_best:
            _update_batchnorm(student, setup, state.metric_of_best)
    student.eval().cpu()
    student.load_state_dict(group.broadcast(student.state_dict))
    return state.curve


class _Training:
    """The steps of an epoch."""

    def __init__(self, state: TrainingState, setup: TrainingSetup, on_progress: Callable[[float, str], None]) -> None:
        settings, group = setup.settings, setup.group
        self.state, self.setup, self.on_progress = state, setup, on_progress
        self.steps_an_epoch = setup.data.train.steps(settings.batch_size)
        self.steps = round(settings.epochs * self.steps_an_epoch)
        averaged_steps = settings.ema_epochs * self.steps_an_epoch
        self.decay = math.exp(-1 / averaged_steps) if averaged_steps else 0.0
        self.terms = FeatureTerms(state.student, setup.teacher) if settings.feature_weight else None
        example, _ = next(setup.data.train.subset(2).batches(2, device=group.device))
        self.whole = trains_alike(state.student, example)
        forward = group.wrap(state.student)
        self.forward = torch.compile(forward, dynamic=False) if settings.compile else forward
        # A step that is compiled, hooked for features or part of a group is no CUDA graph.
        plain = settings.compile or self.terms is not None or group.count > 1
        self.step: Step | None = self._step if plain else None
        if not plain and group.device != "cpu":
            for parameters in state.optimizer.param_groups:
                parameters["capturable"] = True  # AdamW's option; SGD always is

    def close(self) -> None:
        """Free the recording and its memory at once: it is part of a circle of references."""
        self.step = None

    def epoch(self, epoch: int) -> float:
        """Train for one epoch and return the mean loss. Its random numbers depend on the seed and the epoch alone."""
        settings, group = self.setup.settings, self.setup.group
        losses: list[Tensor] = []
        shown = ""
        begin_training(self.state.student, whole=self.whole)
        batches = epoch_batches(self.setup, epoch, watched=self.terms is not None)
        torch.manual_seed(group.seed(_seed(settings, epoch)))  # dropout: an epoch draws the same numbers when resumed
        with self.terms.watching() if self.terms is not None else contextlib.nullcontext():
            for step, taken in enumerate(batches, start=epoch * self.steps_an_epoch):
                if step >= self.steps:
                    break
                rate = learning_rate(step, self.steps, settings.lr * self.state.rate_share, settings.warmup)
                batch = (*taken, rate, 1 - min(self.decay, (step + 1) / (step + 10)))
                if self.step is None:
                    self.step = recorded(self._step, batch, self.state.preserved)
                losses.append(self.step(*batch))
                if step % STEPS_BETWEEN_LOSSES == 0 or not shown:
                    shown = f"loss {losses[-1].item():.3f}"
                self.on_progress((step + 1) / self.steps, shown)
        return float(torch.stack(losses).mean()) if losses else 0.0

    def _step(self, inputs: Tensor, labels: Any, target: Any, rate: Number, share: Number) -> Tensor:
        setup, settings, optimizer = self.setup, self.setup.settings, self.state.optimizer
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        with setup.compute.autocast():
            output = self.forward(inputs)
        loss = student_loss(in_full(output), target, labels, setup.task, settings)
        if self.terms is not None:
            loss = loss + settings.feature_weight * self.terms.distance()
        optimizer.zero_grad()
        setup.group.backward(loss)
        nn.utils.clip_grad_norm_(self.state.student.parameters(), settings.clip_norm)
        optimizer.step()
        self.state.update_average(share)
        return loss.detach()


def epoch_batches(setup: TrainingSetup, epoch: int, *, watched: bool = False) -> Iterator[tuple[Tensor, Any, Any]]:
    """A process's share of every batch of an epoch, augmented, with the teacher's outputs on it.

    Without distillation the teacher does not run. Where its features are `watched`, it runs on every batch.
    """
    settings, group, train, seed = setup.settings, setup.group, setup.data.train, _seed(setup.settings, epoch)
    augmentation = resolve(settings.augmentation, tuple(train.read(train.indices[:1])[0].shape[1:]))
    shift, crop = (augmentation == name for name in ("shift", "crop"))
    share = (group.index, group.count)
    batches = augmented(
        train.epoch(settings.batch_size, seed=seed, augment=shift, device=group.device, share=share),
        crop=crop and train.preprocessing is not None,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        seed=group.seed(seed),
    )
    view = _view(settings, augmentation) + (f"-{group.index}of{group.count}" if group.count > 1 else "")
    name = f"{settings.seed}-{epoch}-{settings.batch_size}-{settings.precision}{view}.pt"
    # A user's function, whose splits have no labels here, may augment some examples only: two readings miss that.
    same_inputs = train.labels is not None and not train.varies
    folder = setup.cached_outputs if same_inputs and not watched else None
    return with_teacher_outputs(
        setup.teacher if settings.distillation or watched else None,
        batches,
        compute=setup.compute,
        path=folder / name if folder is not None else None,
    )


def _seed(settings: FineTuning, epoch: int) -> int:
    return settings.seed * 1000 + epoch


def _view(settings: FineTuning, augmentation: str) -> str:
    """The part of a cache's name that identifies the augmentation: cached outputs hold for exactly that."""
    mixed = f"-mixup{settings.mixup:g}-cutmix{settings.cutmix:g}" if settings.mixup or settings.cutmix else ""
    return ("" if augmentation == "shift" else f"-{augmentation}") + mixed


def _update_batchnorm(student: nn.Module, setup: TrainingSetup, best_metric: float) -> None:
    """Re-estimate BatchNorm statistics of the trained student; they are kept unless the validation metric falls."""
    before = copy.deepcopy(student.state_dict())
    count = reestimate_batchnorm(student, setup.data.train, compute=Compute(setup.group.device))
    if count and setup.own_metric(student) < best_metric:
        student.load_state_dict(before)
