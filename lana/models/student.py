"""A student: the teacher with a selection swapped in."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lana.models.selection import Pair
from lana.networks.constant_arguments import copy_with_constant_arguments, of_one_tensor, return_as
from lana.networks.layers import Layer
from lana.networks.surgery import keep_attributes, replace, tensor_of
from lana.operations.families import parse_operation, split_precision
from lana.operations.shortcut import Skip


def own_module(teacher: nn.Module, layer: Layer) -> nn.Module:
    """The teacher's module at a layer, with one tensor as input; at a span, its parts in sequence."""
    parts = [of_one_tensor(teacher.get_submodule(part)) for part in layer.parts]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def build_operation(
    layer: Layer, teacher: nn.Module, operation: str, features: tuple[Tensor, Tensor] | None = None
) -> nn.Module:
    """The operation built for a layer of the teacher, which stays unchanged."""
    return parse_operation(operation).build(layer, own_module(teacher, layer), features)


def assemble(
    teacher: nn.Module,
    layers: Sequence[Layer],
    selection: Mapping[str, str],
    operations: Mapping[Pair, nn.Module] | None = None,
) -> nn.Module:
    """A copy of the teacher with the selected operations in place of its layers.

    `operations` holds trained ones by (layer, operation), which are copied in; what it lacks is built as initialised.
    A span's operation replaces its first member, and its other parts become identities. Precisions change nothing here:
    they are those of the exported file.
    """
    student = copy_with_constant_arguments(teacher)
    for layer in layers:
        operation = split_precision(selection.get(layer.name, "teacher"))[0]
        if operation == "teacher":
            continue
        trained = (operations or {}).get((layer.name, operation))
        module = build_operation(layer, teacher, operation) if trained is None else copy.deepcopy(trained)
        first, *others = layer.parts
        _stand_in(student, first, module)
        for part in others:
            _stand_in(student, part, Skip())
    return student.eval()


def precisions(layers: Sequence[str], selection: Mapping[str, str]) -> dict[str, str]:
    """The path of each module at a layer → its precision; the members of a span behind the first have no work.

    >>> precisions(["a", "b", "c"], {"a+b": "merged_w1@int8"})
    {'a': 'int8', 'c': 'fp32'}
    """
    chosen = {name.split("+")[0]: split_precision(operation)[1] for name, operation in selection.items()}
    behind = {member for name in selection for member in name.split("+")[1:]}
    return {layer: chosen.get(layer, "fp32") for layer in layers if layer not in behind}


def int8_layers(selection: Mapping[str, str]) -> list[str]:
    """The layers and spans with an int8 operation; a skip has no precision of its own."""
    parsed = {name: split_precision(operation) for name, operation in selection.items()}
    return [name for name, (base, precision) in parsed.items() if precision == "int8" and base != "identity"]


def _stand_in(student: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a layer by a module, which takes the tensor only, whatever else the layer is called with (mask=None)."""
    original = student.get_submodule(name)
    first, *others = inspect.signature(original.forward).parameters
    if others or first not in ("x", "input"):  # other names may be called by
        module.register_forward_pre_hook(_only_the_tensor, with_kwargs=True)
    return_as(original, module)
    keep_attributes(original, module)
    replace(student, name, module)


def _only_the_tensor(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return (tensor_of(args, kwargs),), {}


def parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
