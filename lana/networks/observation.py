"""One forward pass observed: the calls, tensors and work of every submodule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lana.networks.constant_arguments import has_constant_arguments, has_other_arguments, returns_one_tensor
from lana.networks.structure import flat_tensors, macs_of, quiet_evaluation


@dataclass
class ObservedModule:
    """The record of a submodule in one forward pass."""

    calls: int = 0
    order: int = -1
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    entered: list[int] = field(default_factory=list)  # versions of the inputs: code before may have worked in place
    versions: list[int] = field(default_factory=list)  # of the outputs: the code around may change them in place
    other_arguments: bool = False
    plain_output: bool = True
    macs: int = 0
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]] | None] = field(
        default_factory=list
    )  # in and out, of each call


class WorkCounter(TorchDispatchMode):
    """Adds each operator's multiply-adds to every submodule that is running, and notes who reads which tensor."""

    def __init__(self, running: list[ObservedModule]) -> None:
        super().__init__()
        self.running = running
        self.macs = 0
        self.readers: dict[
            int, list[list[ObservedModule]]
        ] = {}  # id of a submodule's output → what ran at each use of it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in flat_tensors([args, kwargs]):
            if id(tensor) in self.readers:
                self.readers[id(tensor)].append(list(self.running))
        out = func(*args, **(kwargs or {}))
        macs = macs_of(func, args, kwargs or {}, out)
        self.macs += macs
        for seen in self.running:
            seen.macs += macs
        return out


def observe(model: nn.Module, example_inputs: Sequence[Any]) -> tuple[dict[str, ObservedModule], WorkCounter]:
    """One forward pass in evaluation mode, with every submodule's calls, tensors and work recorded."""
    seen = {name: ObservedModule() for name, _ in model.named_modules()}
    running: list[ObservedModule] = []
    count = WorkCounter(running)
    order = iter(range(10**9))
    hooks = []

    def before(record: ObservedModule) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            record.calls += 1
            record.order = next(order)
            constant = has_constant_arguments(module, args, kwargs)
            record.inputs = list(flat_tensors([args, kwargs]))[: 1 if constant else None]
            record.entered = [tensor._version for tensor in record.inputs]
            record.other_arguments = not constant and has_other_arguments(module, args, kwargs)
            running.append(record)

        return hook

    def after(record: ObservedModule) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            running.remove(record)
            record.outputs = list(flat_tensors(output))
            record.versions = [tensor._version for tensor in record.outputs]
            record.plain_output = returns_one_tensor(module, output)
            plain = record.plain_output and len(record.inputs) == 1 and not record.other_arguments
            plain = plain and len(record.outputs) == 1
            shapes = (tuple(record.inputs[0].shape), tuple(record.outputs[0].shape)) if plain else None
            record.shapes.append(shapes)
            for tensor in record.outputs:
                count.readers.setdefault(id(tensor), [])

        return hook

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(before(seen[name]), with_kwargs=True))
        hooks.append(module.register_forward_hook(after(seen[name])))
    try:
        with quiet_evaluation(model), count:
            output = model(*example_inputs)
        for tensor in flat_tensors(output):
            count.readers.setdefault(id(tensor), []).append([])
    finally:
        for hook in hooks:
            hook.remove()
    return seen, count
