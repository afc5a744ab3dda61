"""The task of a network: loss and metric against labels, and the distance of two outputs without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from lana.common.importing import explain_function, function_from_file
from lana.common.suggestions import near
from lana.errors import UserError


@runtime_checkable
class Task(Protocol):
    """One number an example from each method, shape (N,), so that means and standard errors can be taken.

    A metric that is no mean over examples has a `figure` as well: see `SetTask`.
    """

    metric_name: str

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        """The loss against the labels."""

    def metric(self, output: Any, labels: Tensor) -> Any:
        """The reported figure, larger is better; nan with a finite loss for an example without any."""

    def distance(self, output: Any, teacher_output: Any) -> Tensor:
        """The distance of an output from the teacher's; zero for equal ones."""

    def chance(self, output: Any) -> float:
        """The metric of a guess; a teacher near it has wrong inputs or labels."""


@runtime_checkable
class SetTask(Task, Protocol):
    """A task whose metric is of a whole set: `metric` gives a record an example, of any kind, `figure` reads all."""

    def figure(self, records: Sequence[Any]) -> float:
        """The reported figure of the records of a set, larger is better."""


def records_of(task: Task, output: Any, labels: Tensor) -> list[Any]:
    """The records of a batch: a number an example, or whatever the `figure` of the task reads."""
    records = task.metric(output, labels)
    return records.float().tolist() if isinstance(records, Tensor) else list(records)


def figure_of(task: Task, records: Sequence[Any]) -> float:
    """The metric of the examples of these records: the task's own figure, or the mean of the numbers there are."""
    if isinstance(task, SetTask):
        return float(task.figure(records))
    numbers = np.array(records, dtype=float)
    return float(numbers[~np.isnan(numbers)].mean()) if not np.isnan(numbers).all() else float("nan")


def other_figures(task: Task, records: Sequence[Any]) -> dict[str, float]:
    """Further figures of the same records by name, where the task has a method `figures`."""
    figures = getattr(task, "figures", None)
    return dict(figures(records)) if figures is not None else {}


class Classification:
    """Logits (N, classes), or a mapping or sequence whose first entry they are; labels (N,)."""

    metric_name = "accuracy"

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(tensor_of(output), labels, reduction="none")

    def metric(self, output: Any, labels: Tensor) -> Tensor:
        return (tensor_of(output).argmax(1) == labels).float()

    def distance(self, output: Any, teacher_output: Any) -> Tensor:
        """Kullback-Leibler divergence from the teacher's distribution to the output's, in nats."""
        ours, theirs = F.log_softmax(tensor_of(output), 1), F.log_softmax(tensor_of(teacher_output), 1)
        divergence = F.kl_div(ours, theirs, log_target=True, reduction="none").sum(1)
        return divergence.flatten(1).mean(1) if divergence.ndim > 1 else divergence

    def chance(self, output: Any) -> float:
        return 1 / tensor_of(output).shape[1]


class Segmentation(Classification):
    """Logits (N, classes, H, W) and labels (N, H, W); pixels labelled 255 are left out of loss and metric."""

    metric_name = "pixel accuracy"
    ignored = 255

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        valid = (labels != self.ignored).flatten(1)
        loss = F.cross_entropy(tensor_of(output), labels, ignore_index=self.ignored, reduction="none").flatten(1)
        return loss.sum(1) / valid.sum(1).clamp(min=1)

    def metric(self, output: Any, labels: Tensor) -> Tensor:
        valid = (labels != self.ignored).flatten(1)
        right = (tensor_of(output).argmax(1) == labels).flatten(1) & valid
        return right.sum(1).float() / valid.sum(1)  # nan without any valid pixel


_TASKS = {"classification": Classification, "segmentation": Segmentation}
TASKS = (*_TASKS, "detection")  # the last needs a decoder: see `lana.evaluation.examples`


def load_task(reference: str) -> Task:
    """The task that `reference` names: classification, segmentation, or path/to/file.py:Task.

    Raises:
        UserError: an unknown name, or a class that lacks one of the methods.
    """
    if reference in _TASKS:
        return _TASKS[reference]()
    path, colon, name = reference.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UserError(
            f"Unknown task {reference!r}. Expected {', '.join(TASKS)} or path/to/file.py:Task."
            f"{near(reference, list(TASKS))}"
        )
    make = function_from_file(path, name, what="a task")
    with explain_function(reference):
        task = make()
    if not isinstance(task, Task):
        raise UserError(
            f"{reference} lacks a member of a task. "
            "Expected metric_name, loss, metric, distance and chance; see lana.evaluation.task.Task."
        )
    return task


def tensor_of(output: Any) -> Tensor:
    """The tensor of an output: itself, `out` or `logits` of a mapping (else its first entry), a sequence's first."""
    while not isinstance(output, Tensor):
        if isinstance(output, Mapping):
            output = next((output[key] for key in ("out", "logits") if key in output), next(iter(output.values())))
        elif isinstance(output, (tuple, list)):
            output = output[0]
        else:
            raise UserError(
                f"The model returns {type(output).__name__}: give --task path/to/file.py:Task that reads it."
            )
    return output
