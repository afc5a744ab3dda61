"""Students with int8 layers: the file that runs, and its outputs, which are those that are promised."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from lana.data.split import calibration_inputs
from lana.exporters.computation import to_computation
from lana.models.student import int8_layers, precisions
from lana.quantization.int8_files import MixedPrecision, network_computation, run_as
from lana.quantization.scheme import CALIBRATION_IMAGES
from lana.runs.baseline import runtime_format
from lana.runs.context import RunContext
from profilers import Computation


def student_computation(
    context: RunContext,
    student: nn.Module,
    selection: Mapping[str, str],
    folder: Path,
    *,
    name: str,
    stem: str | None = None,
    images: int = 0,
) -> Computation:
    """The file of a student in the runtime's format, its int8 layers quantized on `images` of training.

    Without images their ranges are placeholders: the file is only fit to be measured.

    Raises:
        ExportFailed, QuantizationFailed: it cannot be written so.
    """
    batch = context.recipe.profiling.batch
    example = context.teacher.example(batch)
    if not int8_layers(selection) or context.scheme is None:
        format = runtime_format(context.recipe.profiling.runtime, context.runtime_settings)
        return to_computation(student, example, folder, name=name, format=format, stem=stem)
    drawn = context.data.train.subset(images * batch, context.recipe.seed + 5)
    return network_computation(
        student,
        example,
        folder,
        name=name,
        mixed=MixedPrecision(
            scheme=context.scheme,
            layers=precisions([layer.name for layer in context.scan.layers], selection),
            inputs=calibration_inputs(drawn, batch) if images else None,
        ),
        stem=stem,
    )


def as_promised(
    context: RunContext, student: nn.Module, selection: Mapping[str, str], images: int = CALIBRATION_IMAGES
) -> nn.Module:
    """A module with the outputs that the delivered file has: the student itself where nothing is int8."""
    if not int8_layers(selection):
        return student
    with tempfile.TemporaryDirectory() as folder:
        made = student_computation(context, student, selection, Path(folder), name="student", images=images)
        return run_as(student, context.teacher.example(), made.file)
