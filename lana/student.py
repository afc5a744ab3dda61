"""A student: the teacher with a selection swapped in; assembled, saved and loaded."""

from __future__ import annotations

import copy
import dataclasses
import errno
import inspect
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_model
from torch import Tensor, nn

from lana.binding import gives_as, with_what_it_is_told
from lana.errors import LanaError, UserError
from lana.features import replace, tensor_of
from lana.layers import Layer
from lana.operations import parse_operation
from lana.operations.derived import Skip
from lana.references import student_folder
from lana.run import write, write_json
from lana.teacher import Teacher, load_teacher

Selection = Mapping[str, str]  # layer (or span) name → operation name
WEIGHTS, SELECTED = "model.safetensors", "selected.safetensors"  # of a student; as it came out of the selection


def own_module(teacher: nn.Module, layer: Layer) -> nn.Module:
    """What the teacher has at a layer, taking one tensor; at a span, its members one after the other."""
    members = [with_what_it_is_told(teacher.get_submodule(member)) for member in layer.members]
    return members[0] if len(members) == 1 else nn.Sequential(*members)


def build_operation(
    layer: Layer, teacher: nn.Module, operation: str, features: tuple[Tensor, Tensor] | None = None
) -> nn.Module:
    """The operation as it stands at a layer of the teacher; the teacher is not changed."""
    return parse_operation(operation).build(layer, own_module(teacher, layer), features)


def assemble(
    teacher: nn.Module,
    layers: Sequence[Layer],
    selection: Selection,
    operations: Mapping[tuple[str, str], nn.Module] | None = None,
) -> nn.Module:
    """A copy of the teacher with the selected operations in place of its layers.

    `operations` holds trained ones by (layer, operation), which are copied in; what it lacks is built as initialised.
    A span's operation stands at its first member and the other members become identities.
    """
    student = copy.deepcopy(teacher)
    for layer in layers:
        operation = selection.get(layer.name, "teacher")
        if operation == "teacher":
            continue
        trained = (operations or {}).get((layer.name, operation))
        module = build_operation(layer, teacher, operation) if trained is None else copy.deepcopy(trained)
        _stand_in(student, layer.members[0], module)
        for member in layer.members[1:]:
            _stand_in(student, member, Skip())
    return student.eval()


def _stand_in(student: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a layer; where it may be told more (mask=None), or by name, it hears of the tensor only."""
    original = student.get_submodule(name)
    first, *others = inspect.signature(original.forward).parameters
    if others or first not in ("x", "input"):  # other names may be called by
        module.register_forward_pre_hook(_only_the_tensor, with_kwargs=True)
    gives_as(original, module)
    replace(student, name, module)


def _only_the_tensor(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return (tensor_of(args, kwargs),), {}


def save_operation(module: nn.Module, path: Path) -> None:
    state = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    content = save(state)
    write(path, lambda beside: beside.write_bytes(content))


def load_operation(layer: Layer, teacher: nn.Module, operation: str, path: Path) -> nn.Module:
    """A trained operation from its file.

    Raises:
        LanaError: the file does not fit the operation (made by another version).
    """
    module = build_operation(layer, teacher, operation)
    try:
        module.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise LanaError(f"{path} does not fit the operation {operation} at {layer.name}: {error}") from error
    return module.eval()


def save_student(
    student: nn.Module, folder: Path, teacher: Teacher, layers: Sequence[Layer], selection: Selection
) -> None:
    """Write `architecture.json` and `model.safetensors`, from which `load_student` builds the network again.

    What fine-tuning begins with is kept beside them: it replaces `model.safetensors`.
    """
    replaced = [layer for layer in layers if selection.get(layer.name, "teacher") != "teacher"]
    write_json(
        folder / "architecture.json",
        {
            "teacher": teacher.to_json(),
            "layers": [dataclasses.asdict(layer) for layer in replaced],
            "selection": {layer.name: selection[layer.name] for layer in replaced},
        },
    )
    for name in (SELECTED, WEIGHTS):
        save_weights(student, folder / name)


def save_weights(student: nn.Module, path: Path) -> None:
    """Write `path` in the format of safetensors.

    Raises:
        OSError: the disk is full; safetensors itself raises another error then.
    """

    def fill(beside: Path) -> None:
        try:
            save_model(student, str(beside))
        except SafetensorError as error:
            if f"(os error {errno.ENOSPC})" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error

    write(path, fill)


def layer_from_json(fields: Mapping[str, Any]) -> Layer:
    """A layer from the mapping that `dataclasses.asdict` made of it."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    return Layer(**values)


def load_student(path: Path | str) -> nn.Module:
    """The network of a student's folder, in evaluation mode; the teacher's code must be present.

    The result is an `nn.Module` like any other: it trains and exports.

    Raises:
        UserError: the folder is not a student's, or its files do not fit each other.
    """
    return load_student_as_teacher(path).module


def load_student_as_teacher(path: Path | str, weights: str = WEIGHTS) -> Teacher:
    """A student with its preprocessing and input shape, and the weights of one of its files."""
    folder = student_folder(path)
    try:
        architecture: dict[str, Any] = json.loads((folder / "architecture.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder} is not a student's folder any more: its architecture.json cannot be read ({error}). "
            "Make the student again with: lana select"
        ) from error
    described = architecture["teacher"]
    preprocessing = described["preprocessing"]
    teacher = load_teacher(
        described["reference"],
        model_args=described["model_args"],
        pretrained=False,
        **(preprocessing or {"input_shape": tuple(described["input_shape"])}),
    )
    layers = [layer_from_json(layer) for layer in architecture["layers"]]
    student = assemble(teacher.module, layers, architecture["selection"])
    try:
        _load_in_full(student, folder / weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The weights {folder / weights} do not fit its architecture.json: {error}") from error
    return dataclasses.replace(teacher, module=student.eval(), weights=str(folder / weights))


def _load_in_full(module: nn.Module, path: Path) -> None:
    """Load what `save_model` wrote: of tensors that share their memory it kept one.

    Raises:
        RuntimeError: names are missing or left over, or shapes differ.
    """
    own = module.state_dict()
    state = OrderedDict(load_file(path))
    state._metadata = own._metadata  # type: ignore[attr-defined]  # the versions that some modules ask for when loading
    missing, unknown = module.load_state_dict(state, strict=False)
    kept = {own[name].data_ptr() for name in state if name in own}
    missing = [name for name in missing if own[name].data_ptr() not in kept]
    if missing or unknown:
        raise RuntimeError(f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}")


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
