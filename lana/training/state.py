"""Where a fine-tuning stands: what is trained, its average, the best so far; saved after every epoch."""

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

KEPT = 0.7  # of the best metric: a student that keeps less after an epoch has diverged
# Of the start's metric, as a candidate for the best. The validation part is of the images that the teacher was trained
# on, so a start that holds its weights knows some by heart, and tuning gives up about 2 points of that (results),
# little by little: of an early epoch's metric less counts than of a late one's.
NOT_BY_HEART = 0.98


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of the training curve."""

    epoch: int
    train_loss: float
    validation_metric: float


class Course:
    """The student in training, an exponential moving average of its weights, and the best average by validation.

    The start counts for `start_share` of its metric, for it may know the validation images by heart, the last of
    `epochs` for all of it, those between for what lies between.
    `rate_share` is the part of the learning rate that the student has been found to bear.
    """

    def __init__(
        self,
        student: nn.Module,
        optimiser: torch.optim.Optimizer,
        start_share: float = NOT_BY_HEART,
        epochs: float = 1.0,
    ) -> None:
        self.student, self.optimiser, self.start_share, self.epochs = student, optimiser, start_share, epochs
        self.average = copy.deepcopy(student)
        self.best = copy.deepcopy(student.state_dict())
        self.curve: list[Epoch] = []
        self.rate_share = 1.0

    def begin(self, metric: float) -> None:
        """The start is the first candidate for the best."""
        self.curve = [Epoch(epoch=0, train_loss=math.nan, validation_metric=metric)]

    @torch.no_grad()
    def follow(self, share: float | Tensor) -> None:
        """Move the averaged weights by a share of the way to the student's; buffers (BatchNorm statistics) likewise."""
        ours, theirs = ([t for t in _tensors(m) if t.is_floating_point()] for m in (self.average, self.student))
        # All at once: one by one is a launch each on a GPU.
        if isinstance(share, Tensor):
            way = torch._foreach_sub(theirs, ours)
            torch._foreach_mul_(way, share)
            torch._foreach_add_(ours, way)
        else:
            torch._foreach_lerp_(ours, theirs, share)

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Afterwards weights, averages and the optimiser's state are as before, in the same places.

        Raises:
            LanaError: a module replaced a buffer by another tensor; the old one is back, but no recording sees the new.
        """
        kept = [*_tensors(self.student), *_tensors(self.average), *self.momenta()]
        before = {id(tensor): tensor.detach().clone() for tensor in kept}
        buffers = [(m, dict(m._buffers)) for net in (self.student, self.average) for m in net.modules()]
        try:
            yield
        finally:
            self.optimiser.zero_grad()
            replaced = any(module._buffers[name] is not own[name] for module, own in buffers for name in own)
            for module, own in buffers:
                module._buffers.update(own)
            with torch.no_grad():
                for tensor in [*kept, *self.momenta()]:
                    tensor.copy_(before[id(tensor)]) if id(tensor) in before else tensor.zero_()
        if replaced:
            raise LanaError("A buffer is not changed in place but replaced by another tensor.")

    def momenta(self) -> list[Tensor]:
        """What the optimiser remembers; nothing yet is as good as zeros."""
        return [value for state in self.optimiser.state.values() for value in state.values() if torch.is_tensor(value)]

    def record(self, train_loss: float, metric: float) -> None:
        """An epoch is over; of equal ones the later is the best."""
        for ours, theirs in zip(_tensors(self.average), _tensors(self.student), strict=True):
            if not ours.is_floating_point():
                ours.copy_(theirs)  # counters are no averages
        self.curve.append(Epoch(epoch=len(self.curve), train_loss=train_loss, validation_metric=metric))
        if self._candidates[-1] >= self.best_metric:
            self.best = copy.deepcopy(self.average.state_dict())

    @property
    def diverged(self) -> bool:
        """Whether the last epoch ruined it, as a high rate does with convolutions without normalisation."""
        last = self.curve[-1]
        finite = len(self.curve) == 1 or math.isfinite(last.train_loss)
        return not finite or last.validation_metric < self.best_metric - (1 - KEPT) * abs(self.best_metric)

    def go_back(self) -> None:
        """To the best so far, and on from there at a quarter of the rate."""
        self.student.load_state_dict(self.best)
        self.average.load_state_dict(self.best)
        for tensor in self.momenta():  # in place: a recorded step knows where they are
            tensor.zero_()
        self.rate_share /= 4

    @property
    def best_metric(self) -> float:
        return max(self._candidates)

    @property
    def metric_of_best(self) -> float:
        """The best epoch's own metric, of which less may count."""
        return max(self.curve, key=lambda row: (self._counted(row), row.epoch)).validation_metric

    @property
    def start_is_best(self) -> bool:
        first, *later = self._candidates
        return all(metric < first for metric in later)

    def stopped(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs brought nothing better than what was there before them."""
        if patience is None or len(self.curve) <= patience:
            return False
        return max(self._candidates[-patience:]) <= max(self._candidates[:-patience])

    @property
    def _candidates(self) -> list[float]:
        return [self._counted(row) for row in self.curve]

    def _counted(self, row: Epoch) -> float:
        by_heart = (1 - self.start_share) * max(0.0, 1 - row.epoch / max(self.epochs, 1.0))
        return row.validation_metric - by_heart * abs(row.validation_metric)

    def save(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Write a checkpoint, all of it or nothing; `settings` are what the training follows."""
        state = {
            "settings": dict(settings),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "curve": [vars(row) for row in self.curve],
            "best": self.best,
            "rate_share": self.rate_share,
        }
        save_torch(path, state)

    def resume(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, if it is of the same settings."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("settings") != dict(settings):
            return
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        here = [{k: v for k, v in group.items() if k != "params"} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, own in zip(self.optimiser.param_groups, here, strict=True):
            group.update(own)  # what is fused or recorded is a matter of this device, not of that one
        for parameter, kept in self.optimiser.state.items():
            for name, value in kept.items():
                if value.shape == parameter.shape:  # laid out in memory as here: fused kernels do not look
                    kept[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self.curve, self.best = [Epoch(**row) for row in state["curve"]], state["best"]
        self.rate_share = state["rate_share"]


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
