"""What a user names, looked at before anything is loaded: a mistake is told at once, not after seconds.

Importing this module loads no torch. The loaders use the same functions, so that a mistake has one message.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lana.common.importing import python_file
from lana.common.suggestions import close
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

    if recipe.model:
        check_model(recipe.model)
    if recipe.weights:
        weights_file(recipe.weights)
    if recipe.data:
        check_data(recipe.data)
    for part in recipe.pool.split(","):
        if part.strip().endswith(".py"):
            python_file(part.strip(), what="operations")
    if measured_here:
        create_runtime(recipe.runtime, recipe.runtime_settings)
    return recipe


def check_model(model: str) -> None:
    """Refuse what is no reference to a model, or to a file that is not there.

    Raises:
        UserError: see above; a package that is not installed.
    """
    kind, _, name = model.partition(":")
    if model in BUNDLED:
        return
    if kind in LIBRARIES and name:
        if importlib.util.find_spec(kind) is None:
            raise UserError(
                f"{model} needs the package {kind!r}. Install it with: pip install -e '.[vision]' in lana's folder."
            )
    elif kind.endswith(".py") and name:
        python_file(kind, what="a model")
    elif kind.endswith(".py"):
        raise UserError(f"{model} names no function. Expected {model}:FUNCTION, one that returns the model.")
    else:
        raise UserError(f"Unknown model {model!r}. Expected one of: {', '.join(MODELS)}.{_meant_model(model)}")


def _meant_model(model: str) -> str:
    if ":" in model:
        return ""
    library = f" Did you mean timm:{model} or torchvision:{model}?"
    return _students(Path(model)) or close(model, list(BUNDLED), cutoff=0.8) or library


def check_data(reference: str) -> None:
    """Refuse what is no reference to data, or to a place where nothing is.

    Raises:
        UserError: see above.
    """
    kind, _, place = reference.partition(":")
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


def weights_file(path: str | Path) -> Path:
    """The file that --weights names.

    Raises:
        UserError: there is none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no weights file {file}. Check --weights.")
    return file


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


def run_folder(path: Path | str) -> Path:
    """A run directory that was begun.

    Raises:
        UserError: it is none.
    """
    folder = Path(path)
    if is_student(folder):
        raise UserError(f"{path} is a student, not a run. Give its run: {folder.resolve().parent.parent}")
    if not (folder / "recipe.yaml").is_file():
        raise UserError(
            f"{path} is not a run: it has no recipe.yaml. Make one with: lana compress MODEL --data DATA --out {path}"
        )
    return folder


def is_student(path: Path | str) -> bool:
    """Whether a path, or what stands for a model, is a student's folder."""
    return (Path(path) / "architecture.json").is_file()


def student_folder(path: Path | str) -> Path:
    """The folder of a student, RUN/students/NAME.

    Raises:
        UserError: it is none; the students of a run are named where it is a run's.
    """
    folder = Path(path)
    if not is_student(folder):
        raise UserError(
            f"{path} is not a student's folder: it has no architecture.json. "
            f"Expected RUN/students/NAME.{_students(folder)}"
        )
    return folder


def _students(run: Path) -> str:
    within = sorted(place.parent for place in run.glob("students/*/architecture.json"))
    return f" It holds: {', '.join(map(str, within))}." if within else ""


def onnx_file(target: Path | str) -> Path:
    """An ONNX file, or that of a student's folder.

    Raises:
        UserError: the target is neither.
    """
    path = Path(target)
    if (path / "model.onnx").is_file():
        path = path / "model.onnx"
    if path.suffix != ".onnx" or not path.is_file():
        raise UserError(
            f"{target} is neither an ONNX file nor a student's folder. Expected FILE.onnx or RUN/students/NAME."
        )
    return path
