"""How good a network is: the task's metric and loss with labels, the distance to the teacher without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lana.console import figure
from lana.data import Data, Split
from lana.errors import UserError
from lana.precision import autocast, channels_last, in_full
from lana.structure import bytes_of
from lana.task import Classification, Task, tensor_of
from lana.teacher import Teacher

EVALUATION_BATCH = 64  # what a processor's caches like; four times as many take a quarter longer an image
KEPT_BYTES = 1 << 30  # of a teacher's outputs; maps of classes of a thousand images are twenty times as much


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Means over the examples of a split; `per_example` is the metric of each (nan where it shows nothing)."""

    metric: float
    loss: float
    examples: int
    per_example: tuple[float, ...] = ()


def evaluate_module(
    module: nn.Module, split: Split, task: Task, *, device: str = "cpu", batch_size: int = EVALUATION_BATCH
) -> Evaluation:
    """The task's metric and loss of a network on a split, in evaluation mode."""
    metrics, losses = [], []
    with evaluating(module, device), torch.no_grad():  # modules may keep tensors, which must serve training
        for inputs, labels in split.batches(batch_size, device=device):
            output = module(inputs)
            try:
                metrics.append(task.metric(output, labels).float().cpu())
                losses.append(task.loss(output, labels).float().cpu())
            except IndexError as error:
                raise UserError(
                    f"A label lies outside the model's classes ({error}). "
                    "Give data of the model's classes, or a model with as many (--model-args num_classes=…)."
                ) from error
    metric, loss = torch.cat(metrics), torch.cat(losses)
    shows = ~(metric.isnan() & loss.isfinite())  # where the loss is none either, the network computed no number
    return Evaluation(
        metric=float(metric[shows].mean()),
        loss=float(loss.mean()),
        examples=len(metric),
        per_example=tuple(metric.tolist()),
    )


class DistanceToTeacher:
    """How far networks are from the teacher on a split; the teacher runs once for all of them, if its outputs fit."""

    def __init__(
        self, teacher: nn.Module, split: Split, task: Task, *, device: str = "cpu", precision: str = "fp32"
    ) -> None:
        self.teacher, self.split, self.task, self.device, self.precision = teacher, split, task, device, precision
        self.kept: list[Any] = []
        with evaluating(teacher, device, precision), torch.no_grad():
            for inputs, _ in split.batches(EVALUATION_BATCH, device=device):
                self.kept.append(teacher(inputs))
                if bytes_of(self.kept) > KEPT_BYTES:
                    self.kept = []
                    break

    def of(self, module: nn.Module) -> Tensor:
        """The task's distance between the outputs, (N,), in evaluation mode."""
        distances = []
        with contextlib.ExitStack() as both, torch.no_grad():
            for network in (module,) if self.kept else (module, self.teacher):
                both.enter_context(evaluating(network, self.device, self.precision))
            for index, (inputs, _) in enumerate(self.split.batches(EVALUATION_BATCH, device=self.device)):
                expected = self.kept[index] if self.kept else self.teacher(inputs)
                distances.append(self.task.distance(in_full(module(inputs)), in_full(expected)).cpu())
        return torch.cat(distances)


@contextlib.contextmanager
def evaluating(module: nn.Module, device: str = "cpu", precision: str = "fp32") -> Iterator[nn.Module]:
    """Evaluation mode on a device, in a precision; afterwards every submodule's mode, and where it is, is as it was."""
    modes = {name: submodule.training for name, submodule in module.named_modules()}
    home = next((tensor.device for tensor in chain(module.parameters(), module.buffers())), device)
    module.to(device)
    with channels_last([module], device, precision), autocast(device, precision):
        try:
            yield module.eval()
        finally:
            for name, submodule in module.named_modules():
                submodule.training = modes.get(name, submodule.training)
            module.to(home)


def check_device(device: str) -> None:
    """Refuse a device that torch has not here, before there is work to lose.

    Raises:
        UserError: see above; the devices that there are.
    """
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without CUDA
        there = ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())))
        raise UserError(
            f"--device {device} cannot be used here. There are: {', '.join(there)}. "
            f"(torch: {str(error).splitlines()[0][:200]})"
        ) from error


def check_labels(teacher: Teacher, data: Data, task: Task) -> None:
    """Refuse labels that the network has no output for, and outputs that the task cannot be of.

    Raises:
        UserError: a label is outside the network's classes, or no whole number; the task fails on an example.
    """
    if type(task) is Classification:  # one of the user's own may call its metric accuracy as well
        _check_classes(teacher, data)
    _check_task(teacher, data, task)


def _check_classes(teacher: Teacher, data: Data) -> None:
    with torch.no_grad():
        output = tensor_of(teacher.module(teacher.example()))
    if output.ndim < 2:
        raise UserError(
            f"The model gives outputs of shape {tuple(output.shape)}. Expected (N, classes), or give another --task."
        )
    classes = output.shape[1]
    for name, split in _splits(data):
        if split.labels is None:
            one = split.read(split.indices[:1])[1]
            if one.ndim != 1:
                raise UserError(
                    f"The {name} labels are of shape {tuple(one.shape[1:])} an example. Expected the number of a class "
                    "each, from 0 (of one-hot labels: labels.argmax(1))."
                )
            if one.is_floating_point():
                raise UserError(f"The {name} labels are of type {one.dtype}. Expected the numbers of classes, from 0.")
            continue
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= classes:
            folders = f" ({len(data.classes)} class folders)" if data.classes else ""
            raise UserError(
                f"The {name} labels run from {low} to {high}{folders}, "
                f"the model has {classes} classes (0 to {classes - 1}). "
                "Give data of the model's classes, or a model with as many (--model-args num_classes=…)."
            )


def _check_task(teacher: Teacher, data: Data, task: Task) -> None:
    inputs, labels = next(data.test.batches(2))  # of one alone, shapes that do not fit may pass
    with torch.no_grad():
        output = teacher.module(inputs)
    try:
        for judge, other in ((task.metric, labels), (task.loss, labels), (task.distance, output)):
            if (judged := tuple(judge(output, other).shape)) != (len(inputs),):
                raise ValueError(f"{judge.__name__} gives {judged} for {len(inputs)} examples, expected one each")
        task.chance(output)
    except UserError:
        raise
    except Exception as error:
        shapes = [tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        raise UserError(
            f"The task {type(task).__name__!r} fails on outputs of shape {', '.join(map(str, shapes))} "
            f"and labels of shape {tuple(labels.shape)} ({type(error).__name__}: {str(error)[:150]}). "
            "Check --task (classification, segmentation, or one of your own) and the labels."
        ) from error


def _splits(data: Data) -> Iterator[tuple[str, Split]]:
    yield from (("training", data.train), ("validation", data.validation), ("test", data.test))


def check_teacher(evaluation: Evaluation, teacher: Teacher, data: Data, task: Task) -> None:
    """Refuse a teacher whose metric is near that of a guess: the commonest failure, and hours would be spent on it.

    Raises:
        UserError: the metric is within three standard errors of chance, or below 1.5 times it (of few classes: below a
            tenth of the way from it to 1); of a metric that is no share, not above chance.
    """
    with torch.no_grad():
        chance = task.chance(teacher.module(teacher.example()))
    least = chance
    if 0 <= chance <= 1:  # a share of right answers; of another metric it is not known how it scatters
        noise = 3 * (chance * (1 - chance) / evaluation.examples) ** 0.5
        least = max(chance + noise, min(1.5 * chance, chance + 0.1 * (1 - chance)))
    if evaluation.metric > least:
        return
    preprocessing = teacher.preprocessing
    used = (
        f"image size {preprocessing.image_size}, mean {preprocessing.mean}, std {preprocessing.std}"
        if preprocessing
        else f"input shape {teacher.input_shape}"
    )
    order = f", classes in the order {', '.join(data.classes[:5])} …" if data.classes else ""
    raise UserError(
        f"The teacher's {task.metric_name} is {figure(evaluation.metric)} on {evaluation.examples} images; "
        f"a guess has {figure(chance)}. "
        f"Used were {used}{order}. Check --weights, --image-size, --mean, --std and the order of the classes."
    )
