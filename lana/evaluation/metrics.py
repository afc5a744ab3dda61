"""A network's metric and loss on labelled examples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from lana.data.split import Split
from lana.errors import UserError
from lana.evaluation.task import Task
from lana.networks.mixed_precision import CPU_FP32, Compute

EVALUATION_BATCH = 64  # fits a processor's caches: four times as many take a quarter longer an image


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Means over the examples of a split; `per_example` is the metric of each (nan where it has none)."""

    metric: float
    loss: float
    examples: int
    per_example: tuple[float, ...] = ()


def evaluate_module(
    module: nn.Module, split: Split, task: Task, *, device: str = "cpu", batch_size: int = EVALUATION_BATCH
) -> Evaluation:
    """The task's metric and loss of a network on a split, in evaluation mode."""
    metrics, losses = [], []
    with evaluating(module, Compute(device)), torch.no_grad():  # modules may keep tensors, which must serve training
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
