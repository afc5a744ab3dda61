"""The teacher in int8 and nothing else: a user's first alternative, measured once per run and told at the start."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lana.common.console import figure
from lana.common.files import read_record, write_json
from lana.config.recipe import fingerprint
from lana.evaluation.metrics import evaluate_module
from lana.exporters.tracing import ExportFailed
from lana.models.selection import Selection
from lana.quantization.int8_files import FileNetwork, example_output
from lana.quantization.onnx_quantizer import QuantizationFailed
from lana.quantization.scheme import CALIBRATION_IMAGES
from lana.runs.baseline import PROCESSES, Baseline
from lana.runs.context import RunContext
from lana.selection.measurement import compared
from lana.selection.measurement_log import MeasuredLatency
from lana.selection.precision import student_computation

logger = logging.getLogger(__name__)

FILE = "int8_alone.json"  # in the pool of a run


@dataclass(frozen=True, kw_only=True)
class Int8Alone:
    """Its latency over the teacher's at fp32, and its metric on the test split."""

    ratio: float
    metric: float

    def beats(self, ratio: float, metric: float) -> bool:
        """Whether it is no slower and no less accurate than a student."""
        return self.ratio <= ratio and self.metric >= metric


def int8_alone(context: RunContext) -> Int8Alone | None:
    """The teacher with every layer in int8; None where int8 is not offered, or the teacher cannot be quantized."""
    run, path = context.run, context.run.pool / FILE
    if context.scheme is None:
        return None
    stage_key = fingerprint(run.parts(context.recipe, "teacher", "profile"))
    if not run.finished("int8 alone", stage_key):
        with run.stage("int8 alone", stage_key):
            write_json(path, _measured(context))
    found = read_record(path, _Kept)
    return Int8Alone(ratio=found.ratio, metric=found.metric) if found.ratio else None


def report_int8_alone(context: RunContext, baseline: Baseline) -> None:
    """Tell at the start how fast and how accurate the teacher is in int8, or why it stays in fp32."""
    if context.scheme is None:
        return
    if (alone := int8_alone(context)) is None:
        logger.info(f"The teacher stays in fp32: {read_record(context.run.pool / FILE, _Kept).reason}")
        return
    logger.info(
        f"int8 alone: {alone.ratio:.2f}x, {context.task.metric_name} {figure(alone.metric)} "
        f"(fp32 {figure(baseline.metric)}); {context.scheme}."
    )
    if alone.ratio >= 1:
        logger.info("int8 as a whole does not pay on this processor: each operation stays in fp32 where it is faster.")


@dataclass(frozen=True, kw_only=True)
class _Kept:
    ratio: float = 0.0
    metric: float = 0.0
    reason: str = ""


def _measured(context: RunContext) -> Mapping[str, object]:
    every = Selection({layer.name: "teacher@int8" for layer in context.scan.layers})
    module, folder = context.teacher.module, context.run.pool / "networks"
    try:
        made = student_computation(
            context, module, every, Path(folder), name="teacher@int8", stem="int8_alone", images=CALIBRATION_IMAGES
        )
    except (ExportFailed, QuantizationFailed) as error:
        return asdict(_Kept(reason=str(error)))
    [latency] = compared(context, [made], PROCESSES)
    measured = MeasuredLatency(selection=every, ratios=tuple(latency.ratios))
    promised = FileNetwork(made.file, example_output(module, context.teacher.example()))
    metric = evaluate_module(promised, context.data.test, context.task).metric
    made.file.unlink()
    return asdict(_Kept(ratio=measured.ratio, metric=metric))
