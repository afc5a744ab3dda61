"""Inputs and outputs of the teacher's layers, captured during a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.networks.structure import flat_tensors
from lana.networks.surgery import tensor_of


class LastLayerReached(Exception):
    """Raised inside a hook to skip the part of the network that nobody needs."""


@contextlib.contextmanager
def captured(module: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """While open, a forward pass fills in (input, output) of each layer, by name.

    Copies are kept, since a network may work in place on either. Run the pass with `forward_until`.
    """
    features: dict[str, tuple[Tensor, Tensor]] = {}
    inputs: dict[str, Tensor] = {}
    hooks = []

    def first(name: str) -> Any:
        def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in features:  # of several calls the first
                inputs[name] = tensor_of(args, kwargs).detach().clone()

        return keep_input

    def last(name: str) -> Any:
        def keep_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if name not in inputs:
                return
            features[name] = (inputs.pop(name), next(flat_tensors(output)).detach().clone())
            if len(features) == len(layers):
                raise LastLayerReached

        return keep_output

    for layer in layers:
        submodule = module.get_submodule(layer.members[0])
        hooks.append(submodule.register_forward_pre_hook(first(layer.name), with_kwargs=True))
        hooks.append(module.get_submodule(layer.members[-1]).register_forward_hook(last(layer.name)))
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def forward_until(module: nn.Module, inputs: Tensor) -> None:
    """A forward pass inside `captured`, which ends as soon as the last layer has run."""
    with contextlib.suppress(LastLayerReached):
        module(inputs)


def replayable(module: nn.Module, layers: Sequence[Layer], example: Tensor) -> list[str]:
    """The largest submodules that hold no layer or are one, and run exactly once, in order of execution.

    The submodules before a layer need not run again when only that layer changes. Submodules that other code looks into
    are left out: nothing can replace them.
    """
    from lana.networks.layers import externally_referenced

    members = {member for layer in layers for member in layer.members}
    ancestors = {member[:cut] for member in members for cut in range(len(member)) if member[cut] == "."} | {""}
    chosen = [
        name
        for name, submodule in module.named_modules(remove_duplicate=False)
        if name
        and name not in ancestors
        and name.rpartition(".")[0] in ancestors
        and not isinstance(submodule, (nn.Identity, nn.ModuleList, nn.ModuleDict))
    ]
    order: list[str] = []

    def called(name: str) -> Any:
        return lambda *_: order.append(name)

    hooks = [module.get_submodule(name).register_forward_pre_hook(called(name)) for name in chosen]
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    once = [name for name in order if order.count(name) == 1]
    referenced = externally_referenced(module, once, (example,))
    return [name for name in once if name not in referenced]
