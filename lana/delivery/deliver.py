"""The last stage: the student is exported, measured once more and summarised."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from lana.common.files import write_json
from lana.common.progress import Progress
from lana.delivery.delivered import DeliveredFiles
from lana.delivery.model_card import write_card
from lana.delivery.summary import Summary, summarise
from lana.evaluation.detection import Detection
from lana.exporters.metadata import describe
from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import check_parity, onnx_parity
from lana.exporters.torch_export import export_program
from lana.exporters.tracing import ExportFailed, named_outputs
from lana.models.selection import Selection
from lana.models.student import int8_layers
from lana.models.student_files import WEIGHTS, Selected, load_student_as_teacher
from lana.quantization.int8_files import run_as
from lana.quantization.scheme import CALIBRATION_IMAGES
from lana.runs.baseline import PARITY_S, PROCESSES, Baseline, examples, runtime_format
from lana.runs.context import RunContext
from lana.selection.measurement import compared
from lana.selection.measurement_log import LatencyLog, MeasuredLatency
from lana.selection.precision import student_computation
from profilers import Computation

logger = logging.getLogger(__name__)

MORE_MEASUREMENTS = 6  # of the delivered file, where noise hides whether it is within the budget
WAITS_FOR_CALM = 2  # measurements, after which it is delivered as not verified


def deliver(
    context: RunContext, baseline: Baseline, folder: Path, *, verify: bool = True, again: bool = False
) -> Summary:
    """Export the student, measure it in fresh processes, paired with the teacher, and write `summary.json`.

    Where noise hides whether it is within the budget, it is measured again and the measurements are pooled. A student
    that was delivered before stays as it is, unless `again`.
    """
    if (folder / "summary.json").is_file() and not again:
        return Summary.read(folder / "summary.json")
    begun_s, student = time.monotonic(), load_student_as_teacher(folder).module
    example = context.teacher.example(context.recipe.profiling.batch)
    selection = Selection(Selected.read(folder).selection)
    format, images = runtime_format(context.recipe.profiling.runtime, context.runtime_settings), CALIBRATION_IMAGES
    delivered = student_computation(context, student, selection, folder, name=folder.name, stem="model", images=images)
    int8 = bool(int8_layers(selection))
    if not int8 and (verify or format != "onnx"):  # seconds that a quick look should not take
        _export_second_format(student, example, folder, format)
    _describe(context, folder)
    parity = _parity(context, student, delivered.file) if int8 else _checked_parity(context, student, folder, format)
    measured = _measured(context, baseline, folder, delivered) if verify else None
    promised = run_as(student, example, delivered.file) if int8 else student
    summary = summarise(
        context,
        baseline,
        folder,
        files=DeliveredFiles(student=student, promised=promised, parity=parity),
        measured=measured,
        begun_s=begun_s,
    )
    write_card(folder, summary, _notes(context, student))
    write_json(folder / "summary.json", asdict(summary))  # last: with it the student is delivered
    return summary


def _notes(context: RunContext, student: nn.Module) -> list[str]:
    """The outputs in words."""
    with torch.no_grad():
        output = student(context.teacher.example())
    shapes = (f"`{name}` {tuple(tensor.shape)}" for name, tensor in named_outputs(output).items())
    notes = [f"Outputs: {', '.join(shapes)}, as the network returns them."]
    if isinstance(context.task, Detection):
        decoder = context.task.decoder
        after = "no suppression is needed"
        if decoder.overlap is not None:
            after = (
                f"non-maximum suppression (overlap {decoder.overlap:g} within a class) is left out and comes after it"
            )
        notes.append(f"`--decode {decoder.name}` reads them. The file holds the network alone: {after}.")
    return notes


def _export_second_format(student: nn.Module, example: Tensor, folder: Path, format: str) -> None:
    """Write a second format in addition to that of the runtime; a format that the export fails for is left out."""
    export: Callable[..., Path] = export_program if format == "onnx" else export_onnx
    try:
        export(student, example, folder / ("model.pt2" if format == "onnx" else "model.onnx"))
    except ExportFailed as error:
        logger.info(f"{folder.name} is delivered without one of its formats: {error}")


def _describe(context: RunContext, folder: Path) -> None:
    """Write into the ONNX file what it is fed and what its outputs are."""
    images = context.teacher.preprocessing
    if (folder / "model.onnx").is_file():
        describe(folder / "model.onnx", asdict(images) if images else None, context.data.classes)


def _parity(context: RunContext, student: nn.Module, file: Path) -> float:
    """How far an int8 file is from the student in fp32: rounding, which is no fault."""
    return onnx_parity(student, file, examples(context), limit_s=PARITY_S)


def _checked_parity(context: RunContext, student: nn.Module, folder: Path, format: str) -> float | None:
    """How far the ONNX file is from the student; a wrong one is removed, unless it is what the runtime runs."""
    if not (file := folder / "model.onnx").is_file():
        return None
    try:
        parity = onnx_parity(student, file, examples(context), limit_s=PARITY_S)
        whole = f"The student itself is whole, in {folder / WEIGHTS}; another format may fit it (`lana export`)."
        check_parity(file, parity, whole)
    except Exception as error:  # ONNX Runtime's own are of many kinds
        if format == "onnx":
            raise
        file.unlink()
        logger.info(f"{folder.name} is delivered without one of its formats: {error}")
        return None
    return parity


def _measured(context: RunContext, baseline: Baseline, folder: Path, delivered: Computation) -> MeasuredLatency | None:
    """Measure the delivered file, again where noise hides whether it is within the budget."""
    chosen, log = Selected.read(folder), LatencyLog(folder / "measurements.csv")
    limit = baseline.budget_ms(context.recipe) / baseline.teacher_ms if chosen.max_loss is None else math.inf
    selection, measured = Selection(chosen.selection), None
    for turn in range(1, MORE_MEASUREMENTS + 1):
        with Progress("Measuring the delivered file") as progress:
            log.add([selection], compared(context, [delivered], PROCESSES))
            progress.update(1)
        measured = log.get(selection)
        if measured is None or (measured.disturbed and turn < WAITS_FOR_CALM):
            continue
        if measured.disturbed or measured.ratio_upper95 <= limit:
            break
    return measured
