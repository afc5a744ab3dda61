"""Checks of the models and data that a user names, before anything is loaded: errors come at once.

Importing this module loads no torch. The loaders use the same functions, so that a mistake has one message.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lana.common.importing import python_file
from lana.common.reference import LOCAL, split_reference
from lana.common.suggestions import close
from lana.config.folders import students_in
from lana.config.recipe import Recipe
from lana.errors import UserError

BUNDLED = ("digits-resnet",)

LIBRARIES = ("timm", "torchvision")

MODELS = (*BUNDLED, *(f"{library}:NAME" for library in LIBRARIES), "path/to/file.py:function")

DATA = ("digits", "folder:PATH", "parquet:PATH", "npz:PATH", "hf:NAME", "path/to/file.py:function")


def check(recipe: Recipe, *, measured_here: bool = True) -> Recipe:
    """The recipe, if what it names is there as far as can be seen without loading it.

    With `measured_here` its runtime has to be usable on this machine.

    Raises:
        UserError: an unknown kind of reference, a missing file, folder or package.
        ProfilerError: a runtime that is unknown or not installed, or settings that it does not take.
    """
    from profilers.registry import create_runtime

    teacher = recipe.teacher
    if teacher.model:
        check_model(teacher.model)
    if teacher.weights:
        weights_file(teacher.weights)
    if teacher.data:
        check_data(teacher.data)
    for part in recipe.profiling.pool.split(","):
        if part.strip().endswith(".py"):
            python_file(part.strip(), what="operations")
    if measured_here:
        create_runtime(recipe.profiling.runtime, recipe.profiling.runtime_settings)
    return recipe


def check_model(model: str) -> None:
    """Refuse what is no reference to a model, or to a file that is not there.

    Raises:
        UserError: see above; a package that is not installed.
    """
    kind, name = split_reference(model)
    if model in BUNDLED:
        return
    if kind in LIBRARIES and name:
        if importlib.util.find_spec(kind) is None:
            raise UserError(
                f"{model} needs the package {kind!r}. Install it with: pip install -e '.[vision]' in lana's folder."
            )
        if kind == "timm" and name.startswith(LOCAL):
            _model_folder(name.removeprefix(LOCAL))
    elif kind.endswith(".py") and name:
        python_file(kind, what="a model")
    elif kind.endswith(".py"):
        raise UserError(f"{model} names no function. Expected {model}:FUNCTION, one that returns the model.")
    else:
        raise UserError(f"Unknown model {model!r}. Expected one of: {', '.join(MODELS)}.{_meant_model(model)}")


def _model_folder(place: str) -> None:
    config = Path(place).expanduser() / "config.json"
    if not config.is_file():
        raise UserError(
            f"timm:{LOCAL}{place} cannot be built: there is no file {config}. "
            "Expected a folder as timm saves it: config.json beside model.safetensors or pytorch_model.bin."
        )


def _meant_model(model: str) -> str:
    if ":" in model:
        return ""
    library = f" Did you mean timm:{model} or torchvision:{model}?"
    return students_in(Path(model)) or close(model, list(BUNDLED), cutoff=0.8) or library


def check_data(reference: str) -> None:
    """Refuse what is no reference to data, or to a place where nothing is.

    Raises:
        UserError: see above.
    """
    kind, place = split_reference(reference)
    if reference == "digits" or (kind == "hf" and place):
        return
    if kind == "folder" and place:
        data_folder(place)
    elif kind in ("parquet", "npz") and place:
        if not Path(place).expanduser().exists():
            raise UserError(
                f"{reference} cannot be read: there is nothing at {Path(place).expanduser()}. Check --data."
            )
    elif kind.endswith(".py") and place:
        python_file(kind, what="data")
    else:
        raise UserError(f"Unknown data {reference!r}. Expected one of: {', '.join(DATA)}.{_meant(reference)}")


def _meant(reference: str) -> str:
    if Path(reference).expanduser().is_dir():
        return f" Did you mean: folder:{reference}?"
    if Path(reference).suffix in (".npz", ".parquet"):
        return f" Did you mean: {Path(reference).suffix[1:]}:{reference}?"
    return close(reference, list(DATA), cutoff=0.6)


def weights_file(path: str | Path) -> tuple[Path, str]:
    """The file that --weights names, and the key in it after `::`, empty where there is none.

    Raises:
        UserError: there is no such file.
    """
    file, key = Path(path).expanduser(), ""
    if "::" in str(path) and not file.is_file():
        name, _, key = str(path).rpartition("::")
        file = Path(name).expanduser()
    if not file.is_file():
        raise UserError(f"There is no weights file {file}. Check --weights.")
    return file, key


def data_folder(place: str) -> Path:
    """The folder of images that `folder:PLACE` names.

    Raises:
        UserError: there is none.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise UserError(
            f"folder:{place}: there is no folder {root}. Expected a folder with one folder of images per class."
        )
    return root
