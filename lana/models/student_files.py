"""The files of a student and of single operations: saved and loaded."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_model
from torch import nn

from lana.common.files import explain_damage, read_json, read_record, write_atomically, write_json
from lana.common.importing import barred
from lana.config.folders import run_of, student_folder
from lana.errors import UserError
from lana.models.selection import Selection
from lana.models.student import assemble, build_operation
from lana.models.teacher import Teacher, load_teacher, tell_no_numbers
from lana.networks.layers import Layer

WEIGHTS, SELECTED = "model.safetensors", "selected.safetensors"  # a student's; the same before fine-tuning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selected:
    """The result of selecting a student, as `selection.json` in its folder."""

    budget_ms: float
    predicted_ms: float
    selected_metric: float
    selection: Mapping[str, str]
    seconds: float
    max_loss: float | None = None
    expected_loss: float | None = None
    prediction_error: Mapping[str, float] | None = None
    pins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    verify: bool | None = None

    @classmethod
    def read(cls, folder: Path) -> Selected:
        """That of a student's folder.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_record(folder / "selection.json", cls, positive=("budget_ms",))

    def write(self, folder: Path) -> None:
        write_json(folder / "selection.json", dataclasses.asdict(self))


def save_operation(module: nn.Module, path: Path) -> None:
    state = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    content = save(state)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_operation(layer: Layer, teacher: nn.Module, operation: str, path: Path) -> nn.Module:
    """A trained operation from its file.

    Raises:
        UserError: the file does not fit the operation: damaged, or made by another version.
    """
    module = build_operation(layer, teacher, operation)
    try:
        module.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{path} does not fit the operation {operation} at {layer.name}: {str(error)[:300]}. Delete it and repeat "
            "the command: it is trained again."
        ) from error
    return module.eval()


def save_student(
    student: nn.Module, folder: Path, teacher: Teacher, layers: Sequence[Layer], selection: Mapping[str, str]
) -> None:
    """Write `architecture.json` and `model.safetensors`, from which `load_student` builds the network again.

    Fine-tuning replaces `model.safetensors`; its start stays in `selected.safetensors`.
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

    def fill(temporary: Path) -> None:
        try:
            save_model(student, str(temporary))
        except SafetensorError as error:
            if f"(os error {errno.ENOSPC})" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error

    write_atomically(path, fill)


def load_student(path: Path | str) -> nn.Module:
    """The network of a student's folder, in evaluation mode; the teacher's code must be present.

    The result is an `nn.Module` like any other: it trains and exports.

    Raises:
        UserError: the folder is not a student's, or its files do not fit each other.
    """
    return load_student_as_teacher(path).module


def selection_of(path: Path | str) -> Mapping[str, str]:
    """The replaced layers of the student in a folder → their operations."""
    selection: dict[str, str] = read_json(student_folder(path) / "architecture.json")["selection"]
    return selection


def load_student_as_teacher(path: Path | str, weights: str = WEIGHTS) -> Teacher:
    """A student with its preprocessing and input shape, and the weights of one of its files."""
    folder = student_folder(path)
    architecture: dict[str, Any] = read_json(folder / "architecture.json")
    with explain_damage(folder / "architecture.json"):
        described, selection = architecture["teacher"], Selection(architecture["selection"])
        preprocessing = described["preprocessing"] or {"input_shape": tuple(described["input_shape"])}
        if "image_size" in preprocessing:  # of before crop shares and sources
            preprocessing = {"crop_share": 1.0, "source": "the teacher's", **preprocessing}
        reference, model_args = str(described["reference"]), described["model_args"]
        layers = [Layer.from_json(layer) for layer in architecture["layers"]]
    with barred(run_of(folder)):
        teacher = load_teacher(reference, model_args=model_args, pretrained=False, **preprocessing)
        student = assemble(teacher.module, layers, selection)
    try:
        _load_in_full(student, folder / weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The weights {folder / weights} do not fit its architecture.json: {error}") from error
    tell_no_numbers(student, str(folder / weights))
    return dataclasses.replace(teacher, module=student.eval(), weights=str(folder / weights))


def _load_in_full(module: nn.Module, path: Path) -> None:
    """Load a file of `save_model`, which keeps one of the tensors that share their memory.

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
