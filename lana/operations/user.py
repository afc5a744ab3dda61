"""Operations of the user's own: a decorated builder in their file.

    from lana.operations.user import operation

    @operation
    def blur(layer, module):
        channels = layer.output_shape[0]
        return nn.Conv2d(channels, channels, 5, padding=2, groups=channels)

used with `--pool default,my_ops.py`. Where it does not fit a layer it returns None.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lana.common.importing import fenced, import_file, importing_neighbours
from lana.errors import UserError
from lana.networks.layers import Layer
from lana.operations.base import example_of, unless

if TYPE_CHECKING:
    from lana.operations.base import Family

FAMILIES: dict[str, Family] = {}


def operation(
    builder: Callable[[Layer, nn.Module], nn.Module | None],
) -> Callable[[Layer, nn.Module], nn.Module | None]:
    """Mark a function as the builder of an operation that carries its name."""
    builder.is_lana_operation = True  # type: ignore[attr-defined]
    return builder


def operations_in(path: str) -> list[str]:
    """The names of the operations in a file, known to the pool from now on.

    Raises:
        UserError: there is no such file, it fails, or nothing in it is marked.
    """
    from lana.operations.base import Family

    file = Path(path).expanduser().resolve()
    module = import_file(str(file), what="operations")
    builders = {name: value for name, value in vars(module).items() if getattr(value, "is_lana_operation", False)}
    if not builders:
        raise UserError(f"{file} has no function marked with @operation (from lana.operations.user import operation).")
    names = []
    for name, builder in builders.items():
        family, builder = f"user:{file}:{name}", importing_neighbours(builder, file)
        FAMILIES[family] = Family(build=_checked(name, builder), why_not=_why_not(builder), grid={})
        names.append(family)
    return names


def load(family: str) -> None:
    """Make the operation of a saved student known again from its file."""
    operations_in(family.removeprefix("user:").rpartition(":")[0])


def _why_not(builder: Callable[..., Any]) -> Callable[[Layer, nn.Module], str]:
    return lambda layer, module: unless(_call(builder, layer, module) is not None, "its builder returns None")


def _call(builder: Callable[..., Any], layer: Layer, module: nn.Module) -> Any:
    """Run a builder on a copy of the teacher's module, so that it can neither change nor share it."""
    try:
        with fenced():
            return builder(layer, copy.deepcopy(module))
    except Exception as error:  # the user's own code may raise anything
        raise UserError(
            f"The builder of the operation {builder.__name__!r} fails at {layer.name} ({layer.layout}, "
            f"{layer.input_shape} to {layer.output_shape}): {type(error).__name__}: {error}. "
            "Return None where it does not fit."
        ) from error


def _checked(name: str, builder: Callable[..., Any]) -> Any:
    def build(layer: Layer, module: nn.Module, parameters: Any, features: Any = None) -> nn.Module:
        made = _call(builder, layer, module)
        if not isinstance(made, nn.Module):
            raise UserError(
                f"The operation {name!r} returned {type(made).__name__} at {layer.name}; expected a module."
            )
        try:
            with fenced(), torch.no_grad():
                output = made.eval()(example_of(layer))
            shape = tuple(output.shape[1:])
        except Exception as error:  # the user's own code may raise anything
            raise UserError(
                f"The operation {name!r} fails at {layer.name} on an input of shape {layer.input_shape}: {error}. "
                "Return None where it does not fit."
            ) from error
        if shape != layer.output_shape:
            raise UserError(
                f"The operation {name!r} turns {layer.input_shape} into {shape} at {layer.name}; expected "
                f"{layer.output_shape}. Return None where it does not fit."
            )
        return made

    return build
