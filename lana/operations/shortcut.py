"""The part that a block passes on beside its work: a shortcut, or some channels in another order (ShuffleNetV2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.networks.structure import quiet_evaluation
from lana.operations.base import Features, example_for, keeps_shape, once_a_structure

NO_SHORTCUT = "nothing passes it beside its weights: without them the layers behind would read another thing"
EXACT = 1e-5  # two channels are one


class Skip(nn.Identity):
    """Nothing; in training a copy, since code behind may work in place on what is needed for the gradient."""

    def forward(self, input: Tensor) -> Tensor:
        return input.clone() if torch.is_grad_enabled() else input


class Reorder(nn.Module):
    """The channels in another order, along `axis`."""

    order: Tensor

    def __init__(self, order: tuple[int, ...], axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(self.axis, self.order)


def identity(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """Nothing: the layer is skipped. A unit that passes channels on in another order keeps that order."""
    order = passed_on(layer, module) if keeps_shape(layer) else None
    return Reorder(order, _axis(layer)) if order else Skip()


def why_no_identity(layer: Layer, module: nn.Module) -> str:
    if not keeps_shape(layer):
        return "its output has another shape than its input"
    return "" if passed_on(layer, module) is not None else NO_SHORTCUT


@once_a_structure
@torch.no_grad()
def passed_on(layer: Layer, module: nn.Module) -> tuple[int, ...] | None:
    """The order that a block without its work leaves the channels in: empty for their own, None where nothing passes.

    With all kernels and matrices zero, what the output still owes to the input is passed on. Channels that are worked
    on keep their order among themselves.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.zero_()
    with quiet_evaluation(module):
        inputs = example_for(layer, module).abs() + 0.1  # a ReLU leaves them
        ours, others = module(inputs.clone()), module(inputs.flip(0) * 2 + 1)
    if torch.allclose(ours, others, rtol=0, atol=EXACT):
        return None
    source = _sources(inputs.movedim(_axis(layer), 0).flatten(1), ours.movedim(_axis(layer), 0).flatten(1))
    used = [index for index in source if index is not None]
    if len(set(used)) < len(used) or all(index in (None, place) for place, index in enumerate(source)):
        return ()
    left = iter(sorted(set(range(len(source))) - set(used)))
    return tuple(next(left) if index is None else index for index in source)


def _axis(layer: Layer) -> int:
    return layer.layout.index("c")


def _sources(inputs: Tensor, outputs: Tensor) -> list[int | None]:
    """For each row of the outputs the row of the inputs that it equals."""
    apart = torch.cdist(outputs[None].double(), inputs[None].double(), p=float("inf"))[0]
    least, nearest = apart.min(1)
    return [int(index) if distance < EXACT else None for distance, index in zip(least, nearest, strict=True)]
