"""A network's metric and loss on labelled examples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from lana.data.split import Split
from lana.errors import UserError
from lana.evaluation.task import SetTask, Task, figure_of, other_figures, records_of
from lana.networks.mixed_precision import CPU_FP32, Compute

EVALUATION_BATCH = 64  # fits a processor's caches: four times as many take a quarter longer an image


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metric of a split, and the mean of its losses; `records` is what the metric follows from, by example.

    The records of a metric that is a mean are numbers (nan for an example without any). `others` are further figures.
    """

    metric: float
    loss: float
    examples: int
    records: tuple[Any, ...] = ()
    others: Mapping[str, float] = field(default_factory=dict)


def evaluate_module(
    module: nn.Module, split: Split, task: Task, *, device: str = "cpu", batch_size: int = EVALUATION_BATCH
) -> Evaluation:
    """The task's metric and loss of a network on a split, in evaluation mode."""
    records: list[Any] = []
    losses = []
    with evaluating(module, Compute(device)), torch.no_grad():  # modules may keep tensors, which must serve training
        for inputs, labels in split.batches(batch_size, device=device):
            output = module(inputs)
            try:
                records += records_of(task, output, labels)
                losses.append(task.loss(output, labels).float().cpu())
            except IndexError as error:
                raise UserError(
                    f"A label lies outside the model's classes ({error}). "
                    "Give data of the model's classes, or a model with as many (--model-args num_classes=…)."
                ) from error
    loss = torch.cat(losses)
    figure = figure_of(task, records)
    if not isinstance(task, SetTask) and (torch.tensor(records).isnan() & ~loss.isfinite()).any():
        figure = float("nan")  # where the loss is none either, the network computed no number
    return Evaluation(
        metric=figure,
        loss=float(loss.mean()),
        examples=len(records),
        records=tuple(records),
        others=other_figures(task, records),
    )


@contextlib.contextmanager
def evaluating(module: nn.Module, compute: Compute = CPU_FP32) -> Iterator[nn.Module]:
    """Evaluation mode on a device, in a precision; the end restores every submodule's mode and device."""
    modes = {name: submodule.training for name, submodule in module.named_modules()}
    home = next((tensor.device for tensor in chain(module.parameters(), module.buffers())), compute.device)
    module.to(compute.device)
    with compute.channels_last([module]), compute.autocast():
        try:
            yield module.eval()
        finally:
            for name, submodule in module.named_modules():
                submodule.training = modes.get(name, submodule.training)
            module.to(home)
