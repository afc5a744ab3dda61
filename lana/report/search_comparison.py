"""The integer program against other searches on one run: the result of each, its measured loss, its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from lana.common.console import make_console
from lana.errors import UserError
from lana.models.selection import Selection
from lana.pipeline import open_finished
from lana.selection.measurement import assembled, reference
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
        problem = model.problem(budget_ms)
        simple = [i for i, candidate in enumerate(model.candidates) if candidate.operation in ("teacher", "identity")]
        distance_to_teacher = reference(context)
        losses: dict[Selection, float] = {}
        results = []
        for method, find in searches(simple, context.recipe.seed).items():
            solution = find(problem)
            if not solution.found:
                nothing = {"expected_loss": None, "measured_loss": None, "predicted_ms": None}
                results.append(Found(method=method, **nothing, seconds=solution.runtime_s, selection={}))
                continue
            selection = model.selection_of(solution)
            if selection not in losses:
                student = assembled(context, pool, selection)
                losses[selection] = float(distance_to_teacher.measure(student).mean())
            results.append(
                Found(
                    method=method,
                    expected_loss=model.expected_loss(selection, budget_ms),
                    measured_loss=losses[selection],
                    predicted_ms=model.predicted_ms(selection),
                    seconds=solution.runtime_s,
                    selection=selection.in_full(model.layers),
                )
            )
        if not losses:
            raise UserError(f"No search found anything within {budget_ms:.4g} ms. Raise the budget.")
    return SearchComparison(budget_ms=budget_ms, found=results)
