"""The state of a fine-tuning: the student, its average and the best so far; saved after every epoch."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.common.files import save_torch
from lana.errors import LanaError

DIVERGED_RATIO = 0.7  # of the best metric: a student below it after an epoch has diverged
# The share of the start's metric that counts towards the best. The teacher was trained on the validation images, so a
# start with its weights has memorised some. Tuning loses about 2 points of that, little by little: an early epoch's
# metric counts for less than a late one's (benchmarks/results/kept-epoch.md).
START_METRIC_RATIO = 0.98


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of the training curve."""

    epoch: int
    train_loss: float
    validation_metric: float


class TrainingState:
    """The student in training, an exponential moving average of its weights, and the best average by validation.

    The start counts for `start_share` of its metric, as it may have memorised validation images. The last of `epochs`
    counts in full, and those between for a share between. `rate_share` multiplies the learning rate: each divergence
    quarters it.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        start_share: float = START_METRIC_RATIO,
        epochs: float = 1.0,
    ) -> None:
        self.student, self.optimizer, self.start_share, self.epochs = student, optimizer, start_share, epochs
        self.average = copy.deepcopy(student)
        self.best = copy.deepcopy(student.state_dict())
        self.curve: list[Epoch] = []
        self.rate_share = 1.0

    def start(self, metric: float) -> None:
        """Record the start as the first candidate for the best."""
        self.curve = [Epoch(epoch=0, train_loss=math.nan, validation_metric=metric)]

    @torch.no_grad()
    def update_average(self, share: float | Tensor) -> None:
        """Move the averaged weights and BatchNorm statistics by a share of the way to the student's."""
        ours, theirs = ([t for t in _tensors(m) if t.is_floating_point()] for m in (self.average, self.student))
        # All at once: one by one is a launch each on a GPU.
        if isinstance(share, Tensor):
            way = torch._foreach_sub(theirs, ours)
            torch._foreach_mul_(way, share)
            torch._foreach_add_(ours, way)
        else:
            torch._foreach_lerp_(ours, theirs, share)

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore weights, averages and the optimizer's state at the end, in the same tensors.

        Raises:
            LanaError: a module replaced a buffer by another tensor, which no recorded step would see. The old one is
                back.
        """
        kept = [*_tensors(self.student), *_tensors(self.average), *self.momenta()]
        before = {id(tensor): tensor.detach().clone() for tensor in kept}
        buffers = [(m, dict(m._buffers)) for net in (self.student, self.average) for m in net.modules()]
        try:
            yield
        finally:
            self.optimizer.zero_grad()
            replaced = any(module._buffers[name] is not own[name] for module, own in buffers for name in own)
            for module, own in buffers:
                module._buffers.update(own)
            with torch.no_grad():
                for tensor in [*kept, *self.momenta()]:
                    tensor.copy_(before[id(tensor)]) if id(tensor) in before else tensor.zero_()
        if replaced:
            raise LanaError("A buffer is not changed in place but replaced by another tensor.")

    def momenta(self) -> list[Tensor]:
        """The optimizer's tensors; before the first step there are none, which equals zeros."""
        return [value for state in self.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]

    def record(self, train_loss: float, metric: float) -> None:
        """Record an epoch; the later of two equal ones is the best."""
        for ours, theirs in zip(_tensors(self.average), _tensors(self.student), strict=True):
            if not ours.is_floating_point():
                ours.copy_(theirs)  # counters are no averages
        self.curve.append(Epoch(epoch=len(self.curve), train_loss=train_loss, validation_metric=metric))
        if self._candidates[-1] >= self.best_metric:
            self.best = copy.deepcopy(self.average.state_dict())

    @property
    def diverged(self) -> bool:
        """True where the last epoch ruined the student, as a high rate does to convolutions without normalisation."""
        last = self.curve[-1]
        finite = len(self.curve) == 1 or math.isfinite(last.train_loss)
        return not finite or last.validation_metric < self.best_metric - (1 - DIVERGED_RATIO) * abs(self.best_metric)

    def restore_best(self) -> None:
        """Return the student to its best, and train on at a quarter of the rate."""
        self.student.load_state_dict(self.best)
        self.average.load_state_dict(self.best)
        for tensor in self.momenta():  # in place: a recorded step reads these tensors
            tensor.zero_()
        self.rate_share /= 4

    @property
    def best_metric(self) -> float:
        return max(self._candidates)

    @property
    def metric_of_best(self) -> float:
        """The best epoch's own metric, which may count for less."""
        return max(self.curve, key=lambda row: (self._counted(row), row.epoch)).validation_metric

    @property
    def start_is_best(self) -> bool:
        first, *later = self._candidates
        return all(metric < first for metric in later)

    def stopped(self, patience: int | None) -> bool:
        """True where the last `patience` epochs brought nothing better than the epochs before them."""
        if patience is None or len(self.curve) <= patience:
            return False
        return max(self._candidates[-patience:]) <= max(self._candidates[:-patience])

    @property
    def _candidates(self) -> list[float]:
        return [self._counted(row) for row in self.curve]

    def _counted(self, row: Epoch) -> float:
        memorised = (1 - self.start_share) * max(0.0, 1 - row.epoch / max(self.epochs, 1.0))
        return row.validation_metric - memorised * abs(row.validation_metric)

    def save(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Write a checkpoint, all of it or nothing; `settings` decide whether it may be resumed."""
        state = {
            "settings": dict(settings),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curve": [vars(row) for row in self.curve],
            "best": self.best,
            "rate_share": self.rate_share,
        }
        save_torch(path, state)

    def resume(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Resume from a checkpoint of the same settings; ignore any other."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("settings") != dict(settings):
            return
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        own_groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, own_groups, strict=True):
            group.update(own)  # this device decides what is fused or recorded
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:  # fused kernels expect the parameter's layout in memory
                    moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self.curve, self.best = [Epoch(**row) for row in state["curve"]], state["best"]
        self.rate_share = state["rate_share"]


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
