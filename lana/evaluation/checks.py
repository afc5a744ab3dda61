"""Early refusals: a missing device, labels that do not fit the network, a teacher that guesses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lana.common.console import figure, listed
from lana.common.importing import fenced
from lana.common.progress import counted
from lana.data.split import Data, Split
from lana.errors import UserError
from lana.evaluation.metrics import Evaluation
from lana.evaluation.task import Classification, Task, figure_of, records_of, tensor_of
from lana.models.teacher import Teacher

logger = logging.getLogger(__name__)


def check_device(device: str) -> None:
    """Refuse a device that torch lacks here, before there is work to lose.

    Raises:
        UserError: the device cannot be used; the message names the devices of this machine.
    """
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without CUDA
        devices = ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())))
        raise UserError(
            f"--device {device} cannot be used here. There are: {', '.join(devices)}. "
            f"(torch: {str(error).splitlines()[0][:200]})"
        ) from error


def check_labels(teacher: Teacher, data: Data, task: Task) -> None:
    """Refuse labels without an output of the network, and outputs that the task cannot judge.

    Raises:
        UserError: a label is outside the network's classes, or no whole number; the task fails on an example.
    """
    if type(task) is Classification:  # a user's own task may call its metric accuracy as well
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
    if classes == 1:
        raise UserError(
            "The model gives one number an example, as of a single sigmoid. Expected a logit for each class: "
            "return torch.cat([torch.zeros_like(x), x], 1) of the number x before the sigmoid, or give another --task."
        )
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
    _tell_classes(data, classes)


def _tell_classes(data: Data, outputs: int) -> None:
    """Warn of fewer classes than outputs, and of classes with one training image or none."""
    learned = [labels for split in (data.train, data.validation) if (labels := split.labels) is not None]
    if not learned or data.test.labels is None:
        return
    classes, counts = np.unique(np.concatenate(learned), return_counts=True)
    held = len(data.classes) if data.classes else max(int(classes.max()), int(data.test.labels.max())) + 1
    if held < outputs:
        logger.warning(
            f"The model has {outputs} classes, the data {held}: outputs from {held} on are never right. Is it the "
            "network of these classes, in this order? Another one has as many outputs (--model-args num_classes=…)."
        )
    if single := _names(data, classes[counts == 1]):
        logger.warning(
            f"{counted(len(single), 'class label')} of {len(classes)} have one training image only: {listed(single)}. "
            "Nothing is learned from one image; give some dozens of each, or leave these classes out."
        )
    if unknown := _names(data, np.setdiff1d(data.test.labels, classes)):
        logger.warning(
            f"{counted(len(unknown), 'class label')} of the test part have no training image: {listed(unknown)}."
        )


def _names(data: Data, labels: np.ndarray) -> list[str]:
    return [data.classes[label] if data.classes else str(label) for label in labels]


def tell_far_below(evaluation: Evaluation, validation: Evaluation, metric_name: str) -> None:
    """Warn of a teacher that is far worse on the test part than on images of the training part."""
    low, high = evaluation.metric, validation.metric
    noise = 3 * (0.25 / max(1, min(evaluation.examples, validation.examples))) ** 0.5
    if 0 <= low <= 1 and 0 <= high <= 1 and low < min(FAR_BELOW * high, high - noise):
        logger.warning(
            f"The teacher's {metric_name} is {figure(low)} on the test part and {figure(high)} on held-out images of "
            "the training part. Check whether both hold the same kind of images, prepared alike, with the same order "
            "of classes; a teacher that has learned its training images by heart makes a student that has, too."
        )


FAR_BELOW = 0.75  # of the metric on the training part


def _check_task(teacher: Teacher, data: Data, task: Task) -> None:
    inputs, labels = next(data.test.batches(2))  # wrong shapes may pass with a single one
    with torch.no_grad():
        output = teacher.module(inputs)
    try:
        with fenced():
            _judge(task, inputs, labels, output)
    except UserError:
        raise
    except Exception as error:  # the task may be the user's own code
        shapes = [tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        raise UserError(
            f"The task {type(task).__name__!r} fails on outputs of shape {', '.join(map(str, shapes))} "
            f"and labels of shape {tuple(labels.shape)} ({type(error).__name__}: {str(error)[:150]}). "
            "Check --task (classification, segmentation, or one of your own) and the labels."
        ) from error


def _judge(task: Task, inputs: Tensor, labels: Tensor, output: Any) -> None:
    """Let a task judge two examples.

    Raises:
        ValueError: it does not give one figure an example.
    """
    records = task.metric(output, labels)
    for name, judged in (
        ("metric", records.shape if isinstance(records, Tensor) else (len(records),)),
        ("loss", task.loss(output, labels).shape),
        ("distance", task.distance(output, output).shape),
    ):
        if tuple(judged) != (len(inputs),):
            raise ValueError(f"{name} gives {tuple(judged)} for {len(inputs)} examples, expected one each")
    figure_of(task, records_of(task, output, labels))
    task.chance(output)


def _splits(data: Data) -> Iterator[tuple[str, Split]]:
    yield from (("training", data.train), ("validation", data.validation), ("test", data.test))


def check_teacher(evaluation: Evaluation, teacher: Teacher, data: Data, task: Task) -> None:
    """Refuse a teacher whose metric is near that of a guess: the commonest failure, which would cost hours.

    Raises:
        UserError: the metric is within three standard errors of chance, or below 1.5 times chance (with few classes: a
            tenth of the way from chance to 1). A metric that is no share has to be above chance.
    """
    with torch.no_grad():
        chance = task.chance(teacher.module(teacher.example()))
    least = chance
    if 0 <= chance <= 1:  # a share of right answers, whose standard error is known
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
        f"It was evaluated with {used}{order}. "
        "Check --weights, --image-size, --mean, --std and the order of the classes."
    )
