"""What needs no run: a latency table, its bundle for another device, and a network evaluated, exported or measured."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from lana.common.progress import Progress, reporting
from lana.config.fields import check_options, flag
from lana.config.folders import is_student, onnx_file
from lana.config.recipe import Recipe
from lana.data.loading import load_data
from lana.errors import UserError
from lana.evaluation.checks import check_device, check_labels
from lana.evaluation.metrics import Evaluation, evaluate_module
from lana.evaluation.task import load_task
from lana.exporters.formats import Exported, Options, export_as, format_of
from lana.models.student_files import load_student_as_teacher
from lana.models.teacher import load_teacher
from lana.pool.builder import make_candidates
from lana.pool.stages import measured_candidates
from lana.runs.context import load_layers
from profilers import Comparison, Computation, LatencyTable, RuntimeSettings, compare
from profilers.bundle import format_on_device, write_bundle
from profilers.library import search_path


def profile(
    recipe: Recipe, table: Path | str, *, tables: Path | None = None, fresh: bool = False, quiet: bool = False
) -> LatencyTable:
    """The latency table of this machine for the layers of a model and a pool, in the file `table`.

    Rows that the file, or (unless `fresh`) one in the folder `tables` or where tables are looked for, holds already are
    not measured again.

    Raises:
        UserError: there is no folder `tables`; or as `compress`, for the model, its layers and the pool.
    """
    if tables is not None and not tables.is_dir():
        raise UserError(f"--tables {tables}: there is no such folder. Expected one that holds tables.")
    teacher, scan = load_layers(recipe)
    with reporting(quiet=quiet), tempfile.TemporaryDirectory() as folder:
        libraries = [] if fresh else search_path(tables)
        return measured_candidates(Path(table), Path(folder), teacher, scan, recipe.profiling, libraries)[1]


def bundle(recipe: Recipe, path: Path | str, *, quiet: bool = False) -> int:
    """An archive that measures the table on a device with nothing of ours; how many computations it holds.

    Raises:
        UserError: as `compress`, for the model, its layers and the pool.
        ProfilerError: the runtime is unknown.
    """
    teacher, scan = load_layers(recipe)
    options, format = recipe.profiling, format_on_device(recipe.profiling.runtime)
    with (
        reporting(quiet=quiet),
        tempfile.TemporaryDirectory() as folder,
        Progress("Building operations") as progress,
    ):
        _, computations = make_candidates(
            teacher,
            scan,
            options.pool,
            batch=options.batch,
            folder=Path(folder),
            format=format,
            on_progress=progress.update,
        )
        write_bundle(Path(path), computations, runtime=options.runtime, settings=options.runtime_settings)
    return len(computations)


def evaluate(model: str, data: str, *, task: str = "classification", device: str = "cpu", **load: Any) -> Evaluation:
    """The metric on the test split of a model reference, or of a student's folder.

    Raises:
        UserError: unknown references; a device that is not here; labels that the model has no class for.
    """
    check_device(device)
    if is_student(model) and (given := [name for name, value in load.items() if value is not None]):
        raise UserError(f"{model} is a student, which knows its own: leave out {', '.join(map(flag, given))}.")
    network = load_student_as_teacher(model) if is_student(model) else load_teacher(model, **load)
    loaded, judged = load_data(data, network), load_task(task)
    check_labels(network, loaded, judged)
    return evaluate_module(network.module, loaded.test, judged, device=device)


def export(student: Path | str, path: Path | str, *, format: str | None = None, **options: Any) -> Exported:
    """Write a student's network to a file, run the file and compare.

    The format is one of `lana.exporters.formats.FORMATS`; the suffix decides by default. `options` are those of
    `lana.exporters.formats.Options`: opset=20, dynamic_batch=True.

    Raises:
        UserError: the folder is not a student's; a format or an option that there is not.
        RuntimeUnavailable: what writes the format is not installed.
        ExportFailed: the network cannot be written so.
    """
    check_options(options, [field.name for field in dataclasses.fields(Options)], "Exporting")
    wanted = Options(**options)
    format = format_of(path, format, wanted)
    loaded = load_student_as_teacher(student)
    return export_as(loaded.module, loaded.example, Path(path), format=format, options=wanted)


def measure(target: str, *, runtime: str, settings: RuntimeSettings, processes: int = 5) -> Comparison:
    """Measure an ONNX file, or the one in a student's folder, in fresh processes; a size left open is the batch.

    It is measured beside itself: its latency is `reference_ms`, the ratios only tell how well that repeats.

    Raises:
        UserError: the target is neither.
    """
    computation = Computation.from_onnx(onnx_file(target), batch=settings.batch)
    return compare(computation, [computation], runtime=runtime, settings=settings, processes=processes)[0]
