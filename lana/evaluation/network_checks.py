"""Early refusals of networks: outputs that depend on the batch, probabilities for logits, no way for gradients."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from lana.common.importing import fenced
from lana.config.options import FineTuning
from lana.data.split import Data
from lana.errors import UserError
from lana.evaluation.task import Classification, Segmentation, Task, tensor_of
from lana.exporters.parity import TOLERANCE, apart
from lana.exporters.tracing import short_error
from lana.models.teacher import Teacher
from lana.networks.structure import flat_tensors, quiet_evaluation
from lana.networks.training_mode import begin_training, tell_partial, trains_alike

logger = logging.getLogger(__name__)

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
    """The error of the float outputs that hold one entry an example, relative to the largest."""
    errors = [0.0]
    for ours, *theirs in zip(flat_tensors(whole), *map(flat_tensors, parts), strict=False):
        alike = ours.is_floating_point() and ours.ndim and len({tensor.shape[1:] for tensor in (ours, *theirs)}) == 1
        if alike and sum(map(len, theirs)) == len(ours):
            errors.append(apart(torch.cat(theirs).float().numpy(), ours.float().numpy()))
    return max(errors, key=lambda error: (error != error, error))  # of which one that is no number is the largest


def check_logits(teacher: Teacher, data: Data, task: Task) -> None:
    """Refuse probabilities where the task takes logits: the divergence of their softmax is far too small.

    Raises:
        UserError: on real examples all outputs lie between 0 and 1.
    """
    if type(task) not in (Classification, Segmentation):  # a user's own task reads what its network gives
        return
    inputs, _ = next(data.test.subset(2 * TRIED).batches(2 * TRIED))
    with quiet_evaluation(teacher.module):
        output = tensor_of(teacher.module(inputs)).float()
    if output.shape[1] < 2 or not ((output >= 0) & (output <= 1)).all() or not output.any():
        return
    summed = bool(((output.sum(1) - 1).abs() < 1e-2).all())
    raise UserError(
        f"The outputs of {teacher.reference} lie between 0 and 1{' and sum to 1' if summed else ''} on real examples: "
        f"they look like probabilities. Expected logits. Leave out the {'softmax' if summed else 'sigmoid or softmax'} "
        f"at its end{', or return the logarithm of the outputs' if summed else ''}. "
        "Other outputs need a --task of your own that reads them."
    )


def check_gradients(
    teacher: Teacher, data: Data, task: Task, settings: FineTuning, layers: Collection[str] = ()
) -> None:
    """Refuse a network that fine-tuning could not train, by one step's forward and backward pass; weights stay.

    Says so where gradients reach a part of the parameters only.

    Raises:
        UserError: the pass fails, the loss follows from no parameter, or one of the `layers` stops gradients.
    """
    inputs, labels = next(data.train.subset(2).batches(2))  # a single one is too few for BatchNorm
    with quiet_evaluation(teacher.module):
        expected = teacher.module(inputs)
        try:
            student = copy.deepcopy(teacher.module)
            whole = trains_alike(student, inputs)
            stopping = _stopping(student, layers)
            with fenced(), torch.enable_grad():
                begin_training(student, whole=whole)
                loss = _loss(student(inputs), expected, labels, task, settings)
                follows = loss.requires_grad
                if follows:
                    loss.backward()
        except Exception as error:  # the network and the task may be the user's own code
            raise UserError(
                f"{teacher.reference} cannot be fine-tuned: a pass forward and backward in training mode fails "
                f"({short_error(error)}). Mend its forward, or give --epochs 0 to do without fine-tuning."
            ) from error
    if not whole:
        tell_partial(teacher.reference)
    if not follows:
        raise UserError(
            f"{teacher.reference} cannot be fine-tuned: its outputs carry no gradients. Expected a forward without "
            "torch.no_grad() and detach(). Take them out, or give --epochs 0 to do without fine-tuning."
        )
    _refuse_stopping(teacher.reference, stopping)
    _tell_unreached(teacher.reference, student)


def check_layers(teacher: Teacher, data: Data, layers: Collection[str]) -> None:
    """Refuse layers of which distilling could not train a copy, where nothing is fine-tuned.

    Raises:
        UserError: one of the `layers` stops gradients.
    """
    inputs, _ = next(data.train.subset(2).batches(2))
    student = copy.deepcopy(teacher.module)
    stopping = _stopping(student, layers)
    with fenced(), torch.enable_grad():
        student.eval()(inputs)
    _refuse_stopping(teacher.reference, stopping)


def _refuse_stopping(reference: str, stopping: list[str]) -> None:
    if stopping:
        raise UserError(
            f"{', '.join(stopping[:3])} of {reference} cannot be trained: the outputs carry no gradients. "
            "Expected a forward without torch.no_grad() and detach(). Take them out, or --exclude the layers."
        )


def _stopping(student: nn.Module, layers: Collection[str]) -> list[str]:
    """The layers whose own forward passes no gradients on; filled in by the passes that follow."""
    found: list[str] = []

    def look(name: str, output: Any) -> None:  # where the whole runs under no_grad, a layer by itself still learns
        if torch.is_grad_enabled() and not any(tensor.requires_grad for tensor in flat_tensors(output)):
            found.append(name)

    for name in layers:
        part = student.get_submodule(name)
        if any(True for _ in part.parameters()):
            part.register_forward_hook(lambda _, __, output, name=name: look(name, output))
    return found


def _loss(output: Any, expected: Any, labels: Tensor, task: Task, settings: FineTuning) -> Tensor:
    parts = [task.distance(output, expected)] if settings.distillation > 0 else []
    if settings.distillation < 1:
        parts.append(task.loss(output, labels))
    return torch.stack([part.float().mean() for part in parts]).sum()


def _tell_unreached(reference: str, student: nn.Module) -> None:
    unreached = {name: p.numel() for name, p in student.named_parameters() if p.grad is None}
    if unreached:
        count = sum(parameter.numel() for parameter in student.parameters())
        names = ", ".join(list(unreached)[:3]) + (" …" if len(unreached) > 3 else "")
        logger.info(
            f"Fine-tuning leaves {sum(unreached.values())} of the {count} parameters of {reference} as they are: no "
            f"gradient reaches {names}. Its forward does not use them, detaches them or is under torch.no_grad()."
        )
