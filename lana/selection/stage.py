"""The stage between the pool and a student: select, compare the accepted ones on images, save."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lana.common.files import read_json, write_json, write_text
from lana.common.progress import Progress, counted
from lana.config.recipe import Recipe
from lana.errors import LanaError, UserError
from lana.evaluation.metrics import evaluate_module
from lana.exporters.computation import to_computation
from lana.models.selection import Selection
from lana.models.student import assemble
from lana.models.student_files import save_student
from lana.pool.stages import Pool
from lana.runs.baseline import PROCESSES, Baseline, runtime_format
from lana.runs.context import RunContext
from lana.runs.student_names import changed_options
from lana.selection.measurement import (
    LOSS_IMAGES,
    NORM_IMAGES,
    assembled,
    compared,
    reference,
)
from lana.selection.measurement_log import Log, LossLog, Measured
from lana.selection.search import Selector
from profilers import Comparison


def make_selector(context: RunContext, pool: Pool, baseline: Baseline) -> Selector:
    """The closed loop over this run's pool, measuring whole students beside the teacher."""
    run, recipe = context.run, context.recipe

    def measure(selections: Sequence[Selection], processes: int) -> list[Comparison]:
        format = runtime_format(recipe.profiling.runtime, context.runtime_settings)
        students = [
            to_computation(
                assemble(context.teacher.module, pool.layers, selection, pool.operations),
                context.teacher.example(recipe.profiling.batch),
                run.pool / "wholes",
                name=f"student {number}",
                format=format,
            )
            for number, selection in enumerate(selections)
        ]
        with Progress(f"Measuring {counted(len(students), 'student')}") as progress:
            comparisons = compared(context, students, processes)
            progress.update(1)
        for student in students:
            student.file.unlink(missing_ok=True)
        return comparisons

    def measure_loss(selections: Sequence[Selection]) -> list[float]:
        distance, found = reference(context, LOSS_IMAGES, precision="auto"), []
        with Progress(f"Measuring the loss of {counted(len(selections), 'student')}", len(selections)) as progress:
            for selection in selections:
                student = assembled(context, pool, selection, NORM_IMAGES, precision="auto")
                found.append(float(distance.of(student).mean()))
                progress.update(len(found))
        return found

    return Selector(
        layers=[layer.name for layer in context.scan.layers],
        offers=pool.candidates,
        losses=pool.scores,
        teacher_ms=baseline.teacher_ms,
        log=Log.read(run.pool / "wholes.csv"),
        measure=measure,
        loss_log=LossLog.read(run.pool / "losses.csv"),
        measure_loss=measure_loss,
        refine=recipe.selecting.refine,
        calibrate=recipe.selecting.calibrate,
        seed=recipe.seed,
    )


@dataclass(frozen=True, kw_only=True)
class WithinLoss:
    """The fastest selection that is expected to lose at most `max_loss`."""

    selection: Selection
    max_loss: float


def select_student(
    context: RunContext,
    baseline: Baseline,
    pool: Pool,
    make_selector: Selector,
    name: str,
    *,
    verify: bool = True,
    within: WithinLoss | None = None,
) -> Path:
    """The best accepted selection for the budget, assembled and saved in `students/NAME`; done once per student.

    With `within` it is the selection that a loss has chosen, and the budget its own.
    """
    run, recipe, start_s = context.run, context.recipe, time.monotonic()
    folder, path = run.student(name), run.student(name) / "selection.json"
    if path.is_file():
        _check_same(folder, recipe, make_selector.pins, verify)
        return folder
    budget_ms = baseline.budget_ms(recipe)
    if within is not None:
        accepted = [make_selector.log.of(within.selection) or Measured(selection=within.selection, ratios=())]
    elif verify:
        accepted = make_selector.select(
            budget_ms, candidates=recipe.selecting.candidates, loop=f"{name}, {budget_ms:.6g} ms"
        )
    else:
        selection = make_selector.solve(budget_ms)
        if selection is None:
            raise make_selector.unreachable(budget_ms)
        accepted = [Measured(selection=selection, ratios=())]
    best, student = _look(context, pool, accepted)
    save_student(student, folder, context.teacher, pool.layers, best.selection)
    metric = evaluate_module(student, context.data.test, context.task, device=recipe.compute.device).metric
    write_text(folder / "recipe.yaml", recipe.to_yaml(folder))
    write_json(
        path,
        {
            "budget_ms": budget_ms,
            "max_loss": within and within.max_loss,
            "predicted_ms": make_selector.predicted_ms(best.selection),
            "expected_loss": make_selector.expected_loss(best.selection, budget_ms),
            "prediction_error": vars(error) if (error := make_selector.prediction_error()) else None,
            "pins": dict(make_selector.pins),
            "verify": verify,
            "selected_metric": metric,
            "selection": best.selection.in_full(layer.name for layer in context.scan.layers),
            "seconds": round(time.monotonic() - start_s, 2),
        },
    )
    return folder


def budget_of(make_selector: Selector, selection: Selection, *, verify: bool) -> float:
    """Milliseconds that one selection keeps: the upper 95% bound, measured twice as of all that is accepted; without
    `verify` what is predicted."""
    if verify:
        for processes in (PROCESSES, 2 * PROCESSES):
            make_selector.measure_new([selection], processes)
    measured = make_selector.log.of(selection)
    return (
        make_selector.predicted_ms(selection) if measured is None else measured.ratio_upper95 * make_selector.teacher_ms
    )


def _look(context: RunContext, pool: Pool, accepted: Sequence[Measured]) -> tuple[Measured, nn.Module]:
    """Of several accepted selections, the one that is `preferred` on images (the paper, section 3.3)."""
    if not accepted:
        raise LanaError("No accepted selection was given to choose from.")
    students = [assembled(context, pool, measured.selection) for measured in accepted]
    if len(students) == 1:
        return accepted[0], students[0]
    distance_to_teacher = reference(context)
    distances = [float(distance_to_teacher.of(student).mean()) for student in students]
    best = preferred(distances, [measured.ratio for measured in accepted])
    return accepted[best], students[best]


def preferred(distances: Sequence[float], latencies: Sequence[float]) -> int:
    """Of students, the one that is nearest to the teacher for its latency: a percent of either counts alike.

    After fine-tuning nearer ones were the more accurate at one latency, and slower ones at one distance (results).

    >>> preferred([0.20, 0.21, 0.30], [0.270, 0.290, 0.295])
    1
    """
    finite = [i for i, distance in enumerate(distances) if math.isfinite(distance)]
    return min(finite, key=lambda i: distances[i] / latencies[i], default=0)


def _check_same(folder: Path, recipe: Recipe, pins: Mapping[str, str], verify: bool) -> None:
    """Refuse to take a student for one of other options: selecting again never overwrites."""
    then = read_json(folder / "selection.json")
    before, changed = then.get("pins", {}), changed_options(folder, recipe)
    changed += [
        f"{layer}: {before.get(layer, 'nothing')} pinned there, {pins.get(layer, 'nothing')} pinned now"
        for layer in sorted({*before, *pins})
        if before.get(layer) != pins.get(layer)
    ]
    if then.get("verify", verify) != verify:
        changed.append("measured there, --no-verify now" if then["verify"] else "--no-verify there, measured now")
    if changed:
        raise UserError(
            f"There is a student {folder.name!r} of other options already ({'; '.join(changed)}). "
            "Give another --name (its pool is reused), or the same options."
        )
