"""Functions without a run: a latency table, its bundle for a device; evaluate, export or measure a network."""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lana.common.files import read_json
from lana.common.progress import Progress, reporting
from lana.config.fields import check_options, flag
from lana.config.folders import is_student, onnx_file
from lana.config.recipe import Recipe
from lana.data.loading import load_data
from lana.data.split import calibration_inputs
from lana.errors import UserError
from lana.evaluation.checks import check_device, check_labels
from lana.evaluation.examples import load_examples, make_task
from lana.evaluation.metrics import Evaluation, evaluate_module
from lana.evaluation.network_checks import check_batches, check_logits
from lana.exporters.formats import Exported, Options, export_as, format_of
from lana.exporters.metadata import describe
from lana.exporters.parity import onnx_session, relative_error, run_onnx
from lana.models.student import int8_layers
from lana.models.student_files import load_student_as_teacher, selection_of
from lana.models.teacher import Teacher, load_teacher
from lana.pool.builder import make_candidates
from lana.pool.profiling import Profiling
from lana.quantization.int8_files import run_as
from lana.quantization.scheme import CALIBRATION_IMAGES, check_precisions, scheme_here
from lana.runs.context import load_layers
from profilers import Comparison, Computation, LatencyTable, RuntimeSettings, compare
from profilers.bundle import format_on_device, write_bundle
from profilers.library import search_path

logger = logging.getLogger(__name__)


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
        profiling = Profiling(
            teacher, scan, recipe.profiling, table=Path(table), folder=Path(folder), libraries=libraries
        )
        return profiling.candidates()[1]


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


def load_network(model: Path | str, **load: Any) -> Teacher:
    """The network of a student's folder, or of a model reference.

    Raises:
        UserError: an unknown reference; options for a student, which knows its own.
    """
    if not is_student(model):
        return load_teacher(str(model), **load)
    if options := [name for name, value in load.items() if value is not None]:
        raise UserError(f"{model} is a student, which knows its own: leave out {', '.join(map(flag, options))}.")
    return load_student_as_teacher(model)


def evaluate(
    model: str,
    data: str,
    *,
    task: str = "classification",
    decode: str | None = None,
    device: str = "cpu",
    **load: Any,
) -> Evaluation:
    """The metric on the test split of a model reference, or of a student's folder.

    Raises:
        UserError: unknown references; a device that is not here; labels that the model has no class for.
    """
    with reporting():
        check_device(device)
        network = load_network(model, **load)
        judged, loaded = load_examples(data, network, make_task(task, network, decode), device=device)
        check_batches(network, loaded)
        check_labels(network, loaded, judged)
        check_logits(network, loaded, judged)
        evaluation = evaluate_module(_promised(model, network), loaded.test, judged, device=device)
        if not math.isfinite(evaluation.loss):
            logger.warning(
                "The loss of %s is %s. Outputs are no numbers, or the task has none for some examples: check both.",
                model,
                evaluation.loss,
            )
    return evaluation


def _promised(model: Path | str, network: Teacher) -> nn.Module:
    """The network, or the file of a student that has int8 layers: its weights are floats, and the file is promised."""
    if not is_student(model) or not int8_layers(selection_of(model)):
        return network.module
    file = onnx_file(model)
    logger.info("%s has int8 layers: its file %s is evaluated.", model, file)
    return run_as(network.module, network.example(), file)


def export(
    model: Path | str,
    path: Path | str,
    *,
    format: str | None = None,
    precisions: str = "fp32",
    data: str | None = None,
    load: Mapping[str, Any] | None = None,
    **options: Any,
) -> Exported:
    """Write the network of a student's folder, or of a model reference, to a file, run the file and compare.

    The format is one of `lana.exporters.formats.FORMATS`; the suffix decides by default. With `precisions` "int8" the
    ONNX file holds int8 weights and activations, their ranges from training images of `data`. `load` are the options
    that load a model: weights="net.safetensors", image_size=112. `options` are those of
    `lana.exporters.formats.Options`: opset=20, dynamic_batch=True.

    Raises:
        UserError: unknown references; a format or an option that there is not; int8 without data or in another format.
        RuntimeUnavailable: the package that writes the format is not installed.
        ExportFailed, QuantizationFailed: the network cannot be written so.
    """
    check_options(options, [field.name for field in dataclasses.fields(Options)], "Exporting")
    settings, path = Options(**options), Path(path)
    format = format_of(path, format, settings)
    int8 = "int8" in check_precisions(precisions)
    if int8 and (format != "onnx" or data is None or settings.dynamic_batch):
        raise UserError("--precisions int8 needs --data, an ONNX file and a fixed batch: ranges come from real images.")
    network = load_network(model, **(load or {}))
    if is_student(model) and int8_layers(selection_of(model)) and not int8:
        logger.info("The layers in int8 are written in fp32 here. Their int8 file is %s.", onnx_file(model))
    exported = export_as(network.module, network.example, path, format=format, options=settings)
    if int8 and data is not None:
        exported = _quantized(network, exported, data, settings.batch)
    if format == "onnx":
        images, classes = network.preprocessing, _classes_of(model)
        describe(Path(exported.file), dataclasses.asdict(images) if images else None, classes)
        exported = dataclasses.replace(exported, bytes=Path(exported.file).stat().st_size)
    return exported


def _classes_of(model: Path | str) -> list[str] | None:
    """The names of a student's classes, where its summary holds them."""
    summary = Path(model) / "summary.json"
    return read_json(summary).get("classes") if is_student(model) and summary.is_file() else None


def _quantized(network: Teacher, exported: Exported, data: str, batch: int) -> Exported:
    """The exported ONNX file in int8, in its place."""
    from lana.quantization.onnx_quantizer import quantize_onnx

    path = Path(exported.file)
    inputs = calibration_inputs(load_data(data, network).train.subset(CALIBRATION_IMAGES), batch)
    quantize_onnx(path, path, inputs, scheme_here())
    first = torch.from_numpy(inputs[0])
    error = relative_error(network.module, first, run_onnx(onnx_session(path), first))
    size = path.stat().st_size
    return dataclasses.replace(exported, bytes=size, precisions="int8", max_relative_error=error)


def measure(*targets: str, runtime: str, settings: RuntimeSettings, processes: int = 5) -> list[Comparison]:
    """Measure ONNX files, or those in students' folders, side by side in fresh processes; an open size is the batch.

    Each is measured beside the first, so the ratios of the first show how well it repeats.

    Raises:
        UserError: a target is neither.
    """
    computations = [Computation.from_onnx(onnx_file(target), batch=settings.batch) for target in targets]
    return compare(computations[0], computations, runtime=runtime, settings=settings, processes=processes)
