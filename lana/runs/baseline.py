"""The teacher's figures, frozen once per run: metric, latency and a digest of weights and labels."""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.common.files import read_record, save_torch, write_json
from lana.config.recipe import Recipe, fingerprint
from lana.errors import UserError
from lana.evaluation.checks import check_teacher, tell_far_below
from lana.evaluation.metrics import Evaluation, evaluate_module
from lana.exporters.computation import to_computation
from lana.exporters.parity import TOLERANCE, onnx_parity
from lana.exporters.tracing import ExportFailed
from lana.runs.context import RunContext
from lana.runs.run import Run
from profilers import Computation, RuntimeSettings, compare, create_runtime
from profilers.sweep import device_of
from profilers.table_file import read_begun

logger = logging.getLogger(__name__)

PROCESSES = 5  # that measure one network
VALIDATION_IMAGES = 500  # on which a teacher far below its own validation shows
PARITY_IMAGES, PARITY_S = 64, 3.0  # on which a file is compared with its network, and for how long at most


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The teacher's figures, frozen once per run: its metric on the test split, its latency in milliseconds.

    `digest` is of its weights and of the labels, which a reference does not identify.
    """

    metric: float
    examples: int
    teacher_ms: float
    runtime_versions: Mapping[str, str]
    digest: str = ""

    def budget_ms(self, recipe: Recipe) -> float:
        ratio = recipe.selecting.budget_ratio
        return ratio * self.teacher_ms if ratio is not None else recipe.selecting.budget_ms or 0.0


def measure_baseline(context: RunContext) -> Baseline:
    """Evaluate and measure the teacher, once per run.

    Raises:
        UserError: its metric is that of a guess; the same references lead to other weights or data now.
    """
    run, recipe, teacher = context.run, context.recipe, context.teacher
    path, stage_key = run.pool / "teacher.json", fingerprint(run.parts(recipe, "teacher", "profile"))
    now = digest(context)
    if not (run.finished("teacher", stage_key) and path.is_file()):
        runtime = create_runtime(recipe.profiling.runtime, context.runtime_settings)  # not installed? then fail at once
        with run.stage("teacher", stage_key):
            evaluation = evaluate_module(teacher.module, context.data.test, context.task, device=recipe.compute.device)
            check_teacher(evaluation, teacher, context.data, context.task)
            _compare_with_validation(context, evaluation)
            shutil.rmtree(run.pool / "networks", ignore_errors=True)  # of other weights, where this was begun with them
            itself = teacher_computation(context)
            if itself.format == "onnx":
                check_file(context, itself.file)
            reference = compare(
                itself,
                [itself],
                runtime=recipe.profiling.runtime,
                settings=context.runtime_settings,
                processes=PROCESSES,
            )[0]
            if reference.calm and not any(reference.calm):
                logger.warning(
                    "Other work disturbed the measurement of the teacher. Its latency may be too large, and budgets in "
                    "milliseconds with it; a share of the teacher's (--budget 0.5x) is measured beside it."
                )
            baseline = Baseline(
                metric=evaluation.metric,
                examples=evaluation.examples,
                teacher_ms=statistics.median(reference.calm_reference_ms),
                runtime_versions=runtime.versions(),
                digest=now,
            )
            _write_records(run.pool / "teacher_records.pt", evaluation.records)
            write_json(path, vars(baseline))
    kept = read_baseline(run)
    if kept.digest not in ("", now):
        raise UserError(
            f"The run directory {run.path} was made with other weights of {recipe.teacher.model} or other examples of "
            f"{recipe.teacher.data} than there are now. Give another --out, or restore the former ones."
        )
    _tell_other_device(context)
    return kept


def _write_records(path: Path, records: Sequence[Any]) -> None:
    """Keep the teacher's records, where they can be read back; a student's are compared with them, paired."""
    path.unlink(missing_ok=True)
    save_torch(path, list(records))
    try:
        torch.load(path, weights_only=True)
    except pickle.UnpicklingError:  # the records of a user's own task may be of any class
        path.unlink()


def teacher_records(context: RunContext) -> Sequence[Any]:
    """The teacher's records on the test split, by image: as they were kept, else computed again."""
    path = context.run.pool / "teacher_records.pt"
    if path.is_file():
        return torch.load(path, weights_only=True)
    device = context.recipe.compute.device
    return evaluate_module(context.teacher.module, context.data.test, context.task, device=device).records


def read_baseline(run: Run) -> Baseline:
    """The figures of a run's teacher.

    Raises:
        UserError: the file of them is missing or damaged.
    """
    return read_record(run.pool / "teacher.json", Baseline, positive=("teacher_ms", "examples"))


def _tell_other_device(context: RunContext) -> None:
    """Warn if the run was measured on another machine: its operations are valid here, its latencies are not."""
    begun = read_begun(context.run.table)
    device = device_of(create_runtime(context.recipe.profiling.runtime, context.runtime_settings))
    if begun is not None and begun.device != device:
        logger.info(
            f"The latencies of {context.run.path} were measured on {begun.device}, and this is {device}: its budgets "
            "hold there. For one of this machine begin another run (--out), or give lana select its table (--table)."
        )


def examples(context: RunContext) -> Iterator[Tensor]:
    """Inputs of the recipe's batch, on which a file must compute what its network does: random ones, then real ones."""
    batch = context.recipe.profiling.batch
    yield context.teacher.example(batch)
    real = context.data.test.subset(max(PARITY_IMAGES, batch), context.recipe.seed).batches(batch)
    yield from (inputs for inputs, _ in real if len(inputs) == batch)


def check_file(context: RunContext, file: Path) -> None:
    """Refuse a network that decides by values what it computes: a file holds one of its ways."""
    try:
        error = onnx_parity(context.teacher.module, file, examples(context), limit_s=PARITY_S)
    except ExportFailed as failed:
        raise UserError(
            f"The ONNX file of {context.recipe.teacher.model} cannot be used: {failed} Expected a forward of operators "
            "that ONNX Runtime has at 32 bits: take out autocast and bfloat16, or give another --runtime (torch-cpu)."
        ) from failed
    if not error <= TOLERANCE:
        raise UserError(
            f"The ONNX file of {context.recipe.teacher.model} gives other outputs on real examples than PyTorch does "
            f"(by {error:.1e} of the largest): its forward branches on values, or draws random numbers, and a file "
            "holds one way. Write it without that, e.g. with torch.where."
        )


def digest(context: RunContext) -> str:
    """The digest of the teacher's weights and of the labels, in order."""
    content = hashlib.sha256()
    for name, tensor in context.teacher.module.state_dict().items():
        content.update(name.encode())
        if isinstance(tensor, Tensor):  # a module may keep more than tensors
            content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for split in (context.data.train, context.data.validation, context.data.test):
        content.update(f"{len(split)}".encode())
        if split.labels is not None:
            content.update(np.ascontiguousarray(split.labels).data)
    return content.hexdigest()[:16]


def _compare_with_validation(context: RunContext, test: Evaluation) -> None:
    held_out = context.data.validation.subset(VALIDATION_IMAGES)
    device = context.recipe.compute.device
    validation = evaluate_module(context.teacher.module, held_out, context.task, device=device)
    tell_far_below(test, validation, context.task.metric_name)


def teacher_computation(context: RunContext) -> Computation:
    example = context.teacher.example(context.recipe.profiling.batch)
    format = runtime_format(context.recipe.profiling.runtime, context.runtime_settings)
    return to_computation(context.teacher.module, example, context.run.pool / "networks", name="teacher", format=format)


def runtime_format(runtime: str, settings: RuntimeSettings) -> str:
    return create_runtime(runtime, settings).format
