"""The stage between the pool and a student: select, compare the accepted ones on images, save."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lana.common.files import write_text
from lana.config.recipe import Recipe
from lana.errors import LanaError, UserError
from lana.evaluation.metrics import evaluate_module
from lana.models.selection import Selection
from lana.models.student import parameter_bytes
from lana.models.student_files import Selected, save_student
from lana.pool.candidates import Candidate
from lana.pool.stages import Pool
from lana.runs.baseline import PROCESSES, Baseline
from lana.runs.context import RunContext
from lana.runs.student_names import changed_options
from lana.selection.measurement import StudentMeasurer, assembled, reference
from lana.selection.measurement_log import MeasuredLatency, MeasurementLog
from lana.selection.precision import as_promised
from lana.selection.program import SelectionModel
from lana.selection.search import SURE_PROCESSES, BudgetSearch

USED_SHARE = 0.99  # of the largest size, by what is expected of a file


def make_search(context: RunContext, pool: Pool, baseline: Baseline) -> BudgetSearch:
    """The closed loop over this run's pool, measuring students beside the teacher."""
    recipe = context.recipe
    model = SelectionModel(
        layers=[layer.name for layer in context.scan.layers],
        candidates=pool.candidates,
        scores=pool.scores,
        borders=context.scan.borders,
        teacher_ms=baseline.teacher_ms,
        correct_scores=bool(recipe.selecting.refine),
        saturation=pool.saturation,
        seed=recipe.seed,
    )
    return BudgetSearch(
        model=within_size(model, parameter_bytes(context.teacher.module), recipe.selecting.max_size_mb),
        measurer=StudentMeasurer(context=context, pool=pool),
        log=MeasurementLog.read(context.run.pool),
        refinement_students=recipe.selecting.refine,
        calibration_students=recipe.selecting.calibrate,
    )


def refuse_by_table(context: RunContext, baseline: Baseline, candidates: Sequence[Candidate]) -> None:
    """Refuse a budget below the fastest reachable, before anything is trained: latency does not depend on weights.

    Raises:
        BudgetUnreachable: the fastest selection, measured as it is built, is too slow.
    """
    kept = [candidate for candidate in candidates if candidate.kept]
    pool = Pool(candidates=kept, operations={}, scores=dict.fromkeys((one.pair for one in kept), 0.0))
    search = make_search(context, pool, baseline)
    search.model = dataclasses.replace(search.model, correct_scores=False)
    search.begin("the fastest by the table")
    search.refuse_unreachable(baseline.budget_ms(context.recipe))


def within_size(model: SelectionModel, teacher_bytes: float, max_size_mb: float | None) -> SelectionModel:
    """The model whose selections keep a file within a size.

    Raises:
        UserError: the smallest selection is larger.
    """
    if max_size_mb is None:
        return model
    own = sum(4 * part.parameters for part in model.parts(Selection()))
    others = teacher_bytes - own  # of what is no layer
    model = dataclasses.replace(model, most_bytes=USED_SHARE * max_size_mb * 1e6 - others)
    if (smallest := model.smallest_bytes()) > model.most_bytes:
        raise UserError(
            f"--max-size-mb {max_size_mb:g} is out of reach: the smallest student of this pool takes about "
            f"{(smallest + others) / USED_SHARE / 1e6:.3g} MB. Give that at least, or a pool of smaller operations."
        )
    return model


@dataclass(frozen=True, kw_only=True)
class WithinLoss:
    """The fastest selection that is expected to lose at most `max_loss`."""

    selection: Selection
    max_loss: float


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A lower budget to search for, since what was chosen `turn` times before measured over the student's own."""

    budget_ms: float
    turn: int


def select_student(
    context: RunContext,
    baseline: Baseline,
    pool: Pool,
    search: BudgetSearch,
    name: str,
    *,
    verify: bool = True,
    within: WithinLoss | Lowered | None = None,
) -> Path:
    """The best accepted selection for the budget, assembled and saved in `students/NAME`; done once per student.

    With `within` it is the selection that a loss has chosen, and the budget its own; or one of a lowered budget.
    """
    run, recipe, start_s = context.run, context.recipe, time.monotonic()
    folder = run.student(name)
    if (folder / "selection.json").is_file():
        _check_same(folder, recipe, search.model.pins, verify)
        return folder
    budget_ms = baseline.budget_ms(recipe)
    accepted = _accepted(search, recipe.selecting.proposals, budget_ms, f"{name}, {budget_ms:.6g} ms", verify, within)
    (best, student), model = _look(context, pool, accepted), search.model
    save_student(student, folder, context.teacher, pool.layers, best.selection)
    promised = as_promised(context, student, best.selection)
    metric = evaluate_module(promised, context.data.test, context.task, device=recipe.compute.device).metric
    write_text(folder / "recipe.yaml", recipe.to_yaml(folder))
    Selected(
        budget_ms=budget_ms,
        max_loss=within.max_loss if isinstance(within, WithinLoss) else None,
        predicted_ms=model.predicted_ms(best.selection),
        expected_loss=model.expected_loss(best.selection, budget_ms),
        prediction_error=vars(error) if (error := model.prediction_error()) else None,
        pins=dict(model.pins),
        verify=verify,
        selected_metric=metric,
        selection=best.selection.in_full(model.layers),
        seconds=round(time.monotonic() - start_s, 2),
    ).write(folder)
    return folder


def _accepted(
    search: BudgetSearch, proposals: int, budget_ms: float, loop: str, verify: bool, within: WithinLoss | Lowered | None
) -> list[MeasuredLatency]:
    """The selections to choose from: accepted by measurement, of a loss, or predicted only."""
    if isinstance(within, WithinLoss):
        return [search.model.measured.get(within.selection) or _unmeasured(within.selection)]
    if verify:
        if within is not None:
            budget_ms, loop = within.budget_ms, f"{loop}, chosen again {within.turn}"
        return search.select(budget_ms, proposals=proposals, name=loop)
    selection = search.model.solve(budget_ms)
    if selection is None:
        raise search.unreachable(budget_ms)
    return [_unmeasured(selection)]


def _unmeasured(selection: Selection) -> MeasuredLatency:
    return MeasuredLatency(selection=selection, ratios=())


def budget_of(search: BudgetSearch, selection: Selection, *, verify: bool) -> float:
    """Milliseconds that one selection keeps: the upper 95% bound, measured twice as of all that is accepted.

    Without `verify` it is what is predicted.
    """
    if verify:
        for processes in (PROCESSES, SURE_PROCESSES):
            search.measure_latencies([selection], processes)
    model, measured = search.model, search.model.measured.get(selection)
    return model.predicted_ms(selection) if measured is None else measured.ratio_upper95 * model.teacher_ms


def _look(context: RunContext, pool: Pool, accepted: Sequence[MeasuredLatency]) -> tuple[MeasuredLatency, nn.Module]:
    """Of several accepted selections, the one that is `preferred` on images (the paper, section 3.3)."""
    if not accepted:
        raise LanaError("No accepted selection was given to choose from.")
    students = [assembled(context, pool, measured.selection) for measured in accepted]
    if len(students) == 1:
        return accepted[0], students[0]
    distance_to_teacher = reference(context)
    promised = [as_promised(context, student, one.selection) for student, one in zip(students, accepted, strict=True)]
    distances = [float(distance_to_teacher.measure(student).mean()) for student in promised]
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
    then = Selected.read(folder)
    before, changed = then.pins, changed_options(folder, recipe)
    changed += [
        f"{layer}: {before.get(layer, 'nothing')} pinned there, {pins.get(layer, 'nothing')} pinned now"
        for layer in sorted({*before, *pins})
        if before.get(layer) != pins.get(layer)
    ]
    if then.verify not in (None, verify):
        changed.append("measured there, --no-verify now" if then.verify else "--no-verify there, measured now")
    if changed:
        raise UserError(
            f"There is a student {folder.name!r} of other options already ({'; '.join(changed)}). "
            "Give another --name (its pool is reused), or the same options."
        )
