"""Early refusals of networks: outputs that depend on the batch or on the calls before."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lana.common.importing import fenced
from lana.data.split import Data
from lana.errors import UserError
from lana.exporters.parity import TOLERANCE, apart
from lana.exporters.tracing import short_error
from lana.models.teacher import Teacher
from lana.networks.structure import flat_tensors, quiet_evaluation

TRIED = 4  # examples: enough for a batch to matter, few enough for large networks


def check_batches(teacher: Teacher, data: Data) -> None:
    """Refuse a network whose output for an example depends on its batch, or on the calls before.

    Figures are measured in batches, and the delivered file runs at the promised one: they would be of two networks.

    Raises:
        UserError: the network fails on a batch, or gives an example another output alone or when called again.
    """
    inputs, _ = next(data.test.subset(TRIED).batches(TRIED))
    module = teacher.module
    with quiet_evaluation(module):
        kept = _training(module)
        try:
            with fenced():
                whole, again = module(inputs), module(inputs)
                alone = [module(one) for one in inputs.split(1)]
        except Exception as error:  # the network may be the user's own code
            raise UserError(
                f"{teacher.reference} fails on {len(inputs)} real examples ({short_error(error)}). "
                "Expected a network that takes batches of any size. "
                f"Look for sizes that its forward takes as fixed.{kept}"
            ) from error
    if not (apart_by := _difference(whole, [again])) <= TOLERANCE:
        raise UserError(
            f"{teacher.reference} gives other outputs when it is called again on the same examples, "
            f"by {apart_by:.1e} of the largest. Expected the same outputs in evaluation mode. "
            f"Look for random numbers (dropout that ignores eval()) and for a memory of earlier inputs.{kept}"
        )
    if not (apart_by := _difference(whole, alone)) <= TOLERANCE:
        raise UserError(
            f"{teacher.reference} gives an example another output within a batch than alone, "
            f"by {apart_by:.1e} of the largest. Expected outputs that do not depend on the batch: "
            "accuracy is measured in batches, and the delivered file may run at another. "
            "Look for BatchNorm without running statistics, means or attention over the whole batch, and branches on "
            f"values.{kept}"
        )


def _training(module: nn.Module) -> str:
    parts = [name or "the network" for name, part in module.named_modules() if part.training]
    return f" After eval() these are in training mode: {', '.join(parts[:3])}. See its train()." if parts else ""


def _difference(whole: Any, parts: list[Any]) -> float:
    """Of the float outputs that hold one entry an example, relative to the largest."""
    errors = [0.0]
    for ours, *theirs in zip(flat_tensors(whole), *map(flat_tensors, parts), strict=False):
        alike = ours.is_floating_point() and ours.ndim and len({tensor.shape[1:] for tensor in (ours, *theirs)}) == 1
        if alike and sum(map(len, theirs)) == len(ours):
            errors.append(apart(torch.cat(theirs).float().numpy(), ours.float().numpy()))
    return max(errors, key=lambda error: (error != error, error))  # of which one that is no number is the largest
