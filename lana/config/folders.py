"""The folders and files of a run that a user names: looked at before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from lana.errors import UserError

CHOSEN_AGAIN = 2  # times at most, where a student measures over its budget


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
    """True if a path, or a model reference, is a student's folder."""
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
            f"Expected RUN/students/NAME.{students_in(folder)}"
        )
    return folder


def run_of(student: Path) -> Path:
    """The run that a student's folder lies in; the folder itself, where it was taken out of its run."""
    return student.resolve().parent.parent if student.resolve().parent.name == "students" else student


def set_aside(student: Path) -> list[Path]:
    """The students that were chosen under this one's name before, and measured over their budget."""
    places = (student.with_name(f"{student.name}-over-budget-{turn}") for turn in range(1, CHOSEN_AGAIN + 1))
    return [place for place in places if place.is_dir()]


def tuned_folder(path: Path | str) -> Path:
    """The folder of a student to fine-tune, which may be about to be chosen again.

    Raises:
        UserError: it is none.
    """
    return Path(path) if set_aside(Path(path)) else student_folder(path)


def students_in(run: Path) -> str:
    """A sentence that names the students of a run; empty where there is none."""
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
