"""The last predictors of a network: the weights behind which an output is only rearranged, activated or decoded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lana.networks.structure import flat_tensors, quiet_evaluation

REARRANGING = ("View", "UnsafeView", "Transpose", "Permute", "Unsqueeze", "Squeeze", "Clone", "T")  # nodes of gradients


def last_predictors(model: nn.Module, example: Tensor) -> list[str]:
    """The submodules with the last weights before each output, by a walk back through the graph of gradients.

    Weights that read a softmax only decode (the mean of a distribution's bins): those before it predict as well.

    >>> branch = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 85, 1), nn.Sigmoid())
    >>> last_predictors(branch, torch.zeros(1, 3, 8, 8))
    ['2']
    """
    owners = {id(parameter): name for name, part in model.named_modules() for parameter in part.parameters(False)}
    with quiet_evaluation(model), torch.enable_grad():
        output = model(example)
    found: dict[str, None] = {}
    visited: set[Any] = set()
    waiting = [tensor.grad_fn for tensor in flat_tensors(output) if tensor.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node in visited:
            continue
        visited.add(node)
        behind = [after for after, _ in node.next_functions if after is not None]
        weights = [weight for weight in map(_weight, behind) if weight is not None]
        if weights:
            found.update(dict.fromkeys(owners[id(weight)] for weight in weights if id(weight) in owners))
        if not weights or any(map(_softmax, behind)):
            waiting += behind
    return sorted(found)


def _weight(node: Any) -> Tensor | None:
    """The weight that a node stands for: of a convolution itself, of a linear part transposed."""
    weight = getattr(_arranged(node), "variable", None)
    return weight if weight is not None and weight.ndim > 1 else None


def _softmax(node: Any) -> bool:
    return type(_arranged(node)).__name__.startswith("Softmax")


def _arranged(node: Any) -> Any:
    """The node behind those that only rearrange."""
    while type(node).__name__.removesuffix("Backward0") in REARRANGING and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    return node
