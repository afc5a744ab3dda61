"""The integer program against other searches on one run: the result of each, its measured loss, its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from lana.common.console import make_console
from lana.errors import UserError
from lana.models.selection import Selection
from lana.pipeline import open_finished
from lana.selection.int8_baselines import fp32_only, offers_int8, quantized, structure_then_int8
from lana.selection.measurement import assembled, reference
from lana.selection.precision import as_promised
from lana.selection.program import SelectionModel
from solvers import (
    SelectionProblem,
    Solution,
    beam_search,
    evolutionary,
    greedy,
    random_search,
    single_shot,
    solve,
    solve_diverse,
)

COST = "latency_ms"


@dataclass(frozen=True, kw_only=True)
class Found:
    """One search: the expected loss of what it found, the loss measured on the validation part, its seconds.

    `selection` names every layer; as `pins` of `lana.select` it is that student.
    """

    method: str
    expected_loss: float | None
    measured_loss: float | None
    predicted_ms: float | None
    seconds: float
    selection: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SearchComparison:
    """All searches at one budget."""

    budget_ms: float
    found: Sequence[Found]

    def show(self) -> None:
        """Print one line a search."""
        table = Table(title=f"Searches within {self.budget_ms:.4g} ms, predicted")
        for column in ("search", "expected loss", "measured loss", "predicted ms", "seconds"):
            table.add_column(column, justify="left" if column == "search" else "right")
        for one in self.found:
            figures = [one.expected_loss, one.measured_loss, one.predicted_ms]
            table.add_row(one.method, *("–" if f is None else f"{f:.4f}" for f in figures), f"{one.seconds:.2f}")
        make_console().print(table)


def alternatives(model: SelectionModel, budget_ms: float) -> dict[str, Callable[[], Selection | None]]:
    """Selections that a user gets without the program over both; none where no operation is offered in int8."""
    if not offers_int8(model):
        return {}
    return {
        "every layer int8": lambda: quantized(model, Selection()),
        "structure, then int8": lambda: structure_then_int8(model, budget_ms),
        "fp32 only": lambda: fp32_only(model).solve(budget_ms),
    }


def searches(simple: Sequence[int], seed: int) -> dict[str, Callable[[SelectionProblem], Solution]]:
    """Every search by its name; `simple` are the choices of the single shot: the teacher's own and identity."""
    return {
        "integer program": lambda p: solve(p, seed=seed),
        "single shot (teacher, identity)": lambda p: single_shot(p, simple),
        "greedy by loss per millisecond": lambda p: greedy(p, COST),
        "beam (PNAS)": lambda p: beam_search(p, COST),
        "evolutionary": lambda p: evolutionary(p, seed=seed),
        "evolutionary from the program's": lambda p: evolutionary(
            p, warm_start=[s.chosen for s in solve_diverse(p, count=8)], seed=seed
        ),
        "random, best of 1000": lambda p: random_search(p, tries=1000, seed=seed),
    }


def compare_searches(out: Path | str, budget: str, *, quiet: bool = False) -> SearchComparison:
    """Search the pool of a finished run in every way and measure what each selection loses, before fine-tuning.

    Raises:
        UserError: the run is not finished; the budget is no budget.
    """
    with open_finished(out, quiet=quiet) as (context, baseline, pool, search):
        budget_ms = baseline.budget_ms(context.recipe.replace(budget=budget))
        model = search.model
        simple = [i for i, candidate in enumerate(model.candidates) if candidate.operation in ("teacher", "identity")]
        distance_to_teacher = reference(context)
        losses: dict[Selection, float] = {}
        results = []
        for method, (selection, seconds) in _selections(model, budget_ms, simple, context.recipe.seed).items():
            if selection is None:
                nothing = {"expected_loss": None, "measured_loss": None, "predicted_ms": None}
                results.append(Found(method=method, **nothing, seconds=seconds, selection={}))
                continue
            if selection not in losses:
                student = assembled(context, pool, selection)
                promised = as_promised(context, student, selection)
                losses[selection] = float(distance_to_teacher.measure(promised).mean())
            results.append(
                Found(
                    method=method,
                    expected_loss=model.expected_loss(selection, budget_ms),
                    measured_loss=losses[selection],
                    predicted_ms=model.predicted_ms(selection),
                    seconds=seconds,
                    selection=selection.in_full(model.layers),
                )
            )
        if not losses:
            raise UserError(f"No search found anything within {budget_ms:.4g} ms. Raise the budget.")
    return SearchComparison(budget_ms=budget_ms, found=results)


def _selections(
    model: SelectionModel, budget_ms: float, simple: Sequence[int], seed: int
) -> dict[str, tuple[Selection | None, float]]:
    """Method → its selection, None where it found none, and the seconds that it took."""
    problem = model.problem(budget_ms)
    found: dict[str, tuple[Selection | None, float]] = {}
    for method, find in searches(simple, seed).items():
        solution = find(problem)
        found[method] = model.selection_of(solution) if solution.found else None, solution.runtime_s
    for method, make in alternatives(model, budget_ms).items():
        begun_s = time.monotonic()
        made = make()
        found[method] = made, time.monotonic() - begun_s
    return found
