"""The teacher in int8 and nothing else: a user's first alternative, measured once per run and told at the start."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from lana.common.console import figure
from lana.common.files import read_record, write_json
from lana.config.recipe import fingerprint
from lana.evaluation.metrics import evaluate_module
from lana.exporters.tracing import ExportFailed
from lana.models.selection import Selection
from lana.quantization.int8_files import run_as
from lana.quantization.onnx_quantizer import QuantizationFailed
from lana.quantization.scheme import CALIBRATION_IMAGES
from lana.runs.baseline import PROCESSES, Baseline
from lana.runs.context import RunContext
from lana.selection.measurement import compared
from lana.selection.measurement_log import MeasuredLatency
from lana.selection.precision import student_computation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Int8Alone:
    """Its latency over the teacher's at fp32, and its metric on the test split; or the reason why there is neither."""

    ratio: float | None = None
    metric: float | None = None
    reason: str = ""

    def beats(self, ratio: float, metric: float) -> bool:
        """True if it is no slower and no less accurate than a student."""
        return self.ratio is not None and self.metric is not None and self.ratio <= ratio and self.metric >= metric


def int8_alone(context: RunContext) -> Int8Alone | None:
    """The teacher with every layer in int8; None where int8 is not offered."""
    run, path = context.run, context.run.pool / "int8_alone.json"
    if context.scheme is None:
        return None
    stage_key = fingerprint(run.parts(context.recipe, "teacher", "profile"))
    if not run.finished("int8 alone", stage_key):
        with run.stage("int8 alone", stage_key):
            write_json(path, asdict(_measured(context)))
    return read_record(path, Int8Alone)


def report_int8_alone(context: RunContext, baseline: Baseline) -> None:
    """Tell at the start how fast and how accurate the teacher is in int8, or why it stays in fp32."""
    alone = int8_alone(context)
    if alone is None:
        return
    if alone.ratio is None:
        logger.info(f"The teacher stays in fp32: {alone.reason}")
        return
    logger.info(
        f"int8 alone: {alone.ratio:.2f}x, {context.task.metric_name} {figure(alone.metric)} "
        f"(fp32 {figure(baseline.metric)}); {context.scheme}."
    )
    if alone.ratio >= 1:
        logger.info("int8 as a whole does not pay on this processor: each operation stays in fp32 where it is faster.")


def _measured(context: RunContext) -> Int8Alone:
    every = Selection({layer.name: "teacher@int8" for layer in context.scan.layers})
    module, folder = context.teacher.module, context.run.pool / "networks"
    try:
        made = student_computation(
            context, module, every, folder, name="teacher@int8", stem="int8_alone", images=CALIBRATION_IMAGES
        )
    except (ExportFailed, QuantizationFailed) as error:
        return Int8Alone(reason=str(error))
    [comparison] = compared(context, [made], PROCESSES)
    promised = run_as(module, context.teacher.example(), made.file)
    metric = evaluate_module(promised, context.data.test, context.task).metric
    made.file.unlink()
    return Int8Alone(ratio=MeasuredLatency.of(every, comparison).ratio, metric=metric)
