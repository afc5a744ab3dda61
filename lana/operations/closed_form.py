"""Least squares on a layer's features: what a convolution or a linear map is to give, solved for at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lana.networks.structure import Convolution, quiet_evaluation

RIDGE = 1e-3  # of the mean variance of the inputs: keeps closed forms stable where channels go together
LEAST_VARIANCE = 0.55  # of the target's: least squares gives back only what it can explain, and signals would fade
MOST_FADED = 16.0  # beyond that nothing was explained, and there is nothing to amplify
SAMPLED_ROWS = 20_000  # positions of the features that a closed form is solved on

LinearMap = Convolution | nn.Linear


def is_dense(part: nn.Module) -> bool:
    """True if a module is an ordinary convolution or linear map, in which every output sees every input.

    A subclass whose `forward` computes something else (standardised weights, padding of its own) does not count.
    """
    if isinstance(part, nn.Linear):
        return type(part).forward is nn.Linear.forward
    if not isinstance(part, Convolution) or type(part).forward not in [kind.forward for kind in get_args(Convolution)]:
        return False
    return part.groups == 1 and part.padding_mode == "zeros" and not isinstance(part.padding, str)


def rows(module: LinearMap, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """A sample of positions as rows: what the map sees there, and the outputs there."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(module, nn.Linear):
        columns, targets = inputs.flatten(0, -2), outputs.flatten(0, -2)
        chosen = torch.randperm(len(columns), generator=generator)[:SAMPLED_ROWS].to(inputs.device)
        return columns[chosen], targets[chosen]
    positions = math.prod(outputs.shape[2:])
    images = max(1, min(len(inputs), SAMPLED_ROWS // min(positions, 64)))
    chosen = torch.randperm(positions, generator=generator)[:64].to(inputs.device)
    around = [size for size in reversed(module.padding) for _ in range(2)]
    padded = F.pad(inputs[:images], around)  # type: ignore[arg-type]  # numbers: `is_dense` refuses words
    index: tuple[Any, ...] = (slice(None), slice(None), *_windows(module, chosen, outputs.shape[2:]))
    windows = padded[index]
    columns = windows.transpose(1, 2).flatten(0, 1).flatten(1)
    return columns, outputs[:images].flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)


def _windows(module: Convolution, chosen: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """For each dimension, where the kernel reads at the chosen positions of the output: (position, kernel …)."""
    reads = []
    for dimension, position in enumerate(torch.unravel_index(chosen, sizes)):
        steps = torch.arange(module.kernel_size[dimension], device=chosen.device) * module.dilation[dimension]
        along = [1] * len(sizes)
        along[dimension] = -1
        start = (position * module.stride[dimension]).view(-1, *[1] * len(sizes))
        reads.append(start + steps.view(along))
    return reads


@torch.no_grad()
def solve(module: LinearMap, inputs: Tensor, outputs: Tensor, *, censored: bool = False) -> None:
    """Set weight and bias, where there is one, to the ridge solution of outputs ≈ module(inputs) on sampled positions.

    `censored` outputs come from behind a ReLU: where they are zero, whatever the map gives below zero is right, so
    the target there is its own prediction; two rounds of that are near the fixed point.
    """
    columns, targets = rows(module, inputs, outputs)
    share = 0.0 if module.bias is None else 1.0  # of the means that a bias takes upon itself
    mean = share * columns.mean(0)
    centred = columns - mean
    gram = centred.T @ centred
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-8))
    aim = targets
    for _ in range(3 if censored else 1):
        middle = share * aim.mean(0)
        weight = torch.linalg.solve(gram, centred.T @ (aim - middle))
        bias = middle - mean @ weight
        if censored:
            predicted = columns @ weight + bias
            aim = torch.where(targets > 0, targets, predicted.clamp(max=0))
    fitted = columns @ weight + bias
    shown = fitted.relu() if censored else fitted
    faded = LEAST_VARIANCE * targets.var() / shown.var().clamp(min=1e-12)
    if 1 < faded < MOST_FADED:
        still = 0.0 if censored else fitted.mean(0)  # a ReLU scales with what goes into it, means stay otherwise
        weight, bias = weight * faded.sqrt(), faded.sqrt() * bias + (1 - faded.sqrt()) * still
    module.weight.copy_(weight.T.view_as(module.weight))
    if module.bias is not None:
        module.bias.copy_(bias)


def watch(block: nn.Module, parts: Iterable[nn.Module], inputs: Tensor) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """The inputs and outputs of a block's parts that run just once and turn a tensor into a tensor."""
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def keep(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls.setdefault(part, []).append((args[0].clone(), output.clone()))

    hooks = [part.register_forward_hook(keep) for part in parts]
    try:
        with quiet_evaluation(block):
            block(inputs.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return {part: seen[0] for part, seen in calls.items() if len(seen) == 1}


def dense_parts(block: nn.Module) -> Iterator[LinearMap]:
    for part in block.modules():
        if is_dense(part):
            yield part  # type: ignore[misc]  # `is_dense` says so
