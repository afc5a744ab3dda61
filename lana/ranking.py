"""Is the ranking true? Students of nearly one latency, their expected loss beside the one measured.

Across wide ranges of latency anything ranks well, so students are drawn inside narrow bands, by perturbing the
program's objective. Beside Kendall's τ of the summed scores stand those of two plain baselines (the number of replaced
layers, the latency) and the regret: the loss of the program's choice over the best of those measured, as a share of the
band's spread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from lana import stages
from lana.errors import UserError
from lana.pipeline import Setting, open_finished
from lana.progress import Progress
from lana.run import write_json
from lana.selection import Selection, Selector
from lana.summary import make_console
from solvers import Limit, solve

BANDS = (0.7, 0.5, 0.35)
WIDTH = 0.05  # half a band, relative
PERTURBATIONS = (0.3, 1.0, 2.0)  # deviations of the logarithm of the losses that students are drawn with
BOOTSTRAPS = 1000


@dataclass(frozen=True, kw_only=True)
class Student:
    """One student of a band; losses are distances to the teacher."""

    budget: str
    expected: float
    measured: float
    replaced: int
    predicted_ms: float
    chosen: bool
    selection: Selection


@dataclass(frozen=True, kw_only=True)
class Band:
    """Kendall's τ of the summed scores and of the baselines with 95% intervals, and the regret of the choice."""

    budget: str
    students: int
    tau: float
    tau_interval: tuple[float, float]
    tau_replaced: float
    tau_latency: float
    above_replaced: tuple[float, float]
    above_latency: tuple[float, float]
    regret: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All bands with all students."""

    bands: Sequence[Band]
    students: Sequence[Student]

    def show(self) -> None:
        """Print one line a band."""
        table = Table(title="Kendall τ of expected against measured loss, within ±5% of a latency")
        for column in ("latency", "students", "scores", "95%", "layers replaced", "latency", "regret"):
            table.add_column(column, justify="right")
        for band in self.bands:
            low, high = band.tau_interval
            table.add_row(
                band.budget,
                str(band.students),
                f"{band.tau:.2f}",
                f"{low:.2f} to {high:.2f}",
                f"{band.tau_replaced:.2f}",
                f"{band.tau_latency:.2f}",
                f"{band.regret:.1%}",
            )
        make_console().print(table)


def validate(out: Path | str, *, students: int = 60, budgets: Sequence[float] = BANDS, quiet: bool = False) -> Ranking:
    """Measure `students` students in each band of latency; the result is kept in the run, for its report.

    Raises:
        UserError: the run is not finished, or has too few selections at a latency to rank anything.
    """
    with open_finished(out, quiet=quiet) as (setting, _, selector):
        drawn = {f"{budget:g}x": draw(selector, budget, students, setting.recipe.seed) for budget in budgets}
        few = [budget for budget, selections in drawn.items() if len(selections) < 4]
        if few:
            raise UserError(f"At {', '.join(few)} there are fewer than four students: nothing can be ranked there.")
        measured = _measure(setting, selector, drawn)
        ranking = Ranking(bands=[judge([s for s in measured if s.budget == b]) for b in drawn], students=measured)
        write_json(setting.run.pool / "ranking.json", dataclasses.asdict(ranking))
        return ranking


def draw(selector: Selector, budget: float, count: int, seed: int) -> list[Selection]:
    """Different selections around a latency; the first is the program's own choice within it."""
    problem, middle_ms = selector.problem(budget * selector.teacher_ms), budget * selector.teacher_ms
    intercept_ms = selector.prediction().intercept_ms
    low, high = middle_ms * (1 - WIDTH) - intercept_ms, middle_ms * (1 + WIDTH) - intercept_ms
    random = np.random.default_rng(seed)
    first = solve(problem)
    found: list[Selection] = [selector.selection_of(first)] if first.found else []
    for attempt in range(4 * count):
        if len(found) >= count:
            break
        noise = random.normal(0.0, PERTURBATIONS[attempt % len(PERTURBATIONS)], problem.size)
        upper = random.uniform(low + 0.2 * (high - low), high)
        perturbed = dataclasses.replace(
            problem, loss=problem.loss * np.exp(noise), limits={"latency_ms": Limit(lower=low, upper=upper)}
        )
        solution = solve(perturbed, gap=1e-2, seed=seed)
        if solution.found and (selection := selector.selection_of(solution)) not in found:
            found.append(selection)
    return found


def _measure(setting: Setting, selector: Selector, drawn: dict[str, list[Selection]]) -> list[Student]:
    operations, distance = stages.trained_operations(setting, selector.offers), stages.reference(setting)
    measured = []
    total = sum(map(len, drawn.values()))
    with Progress(f"Measuring the loss of {total} students", total, quiet=setting.quiet) as progress:
        for budget, selections in drawn.items():
            for index, selection in enumerate(selections):
                student = stages.assembled(setting, selector, selection, operations)
                measured.append(
                    Student(
                        budget=budget,
                        expected=selector.expected_loss(selection),
                        measured=float(distance.of(student).mean()),
                        replaced=len(selection),
                        predicted_ms=selector.predicted_ms(selection),
                        chosen=index == 0,
                        selection=selection,
                    )
                )
                progress.update(len(measured), budget)
    return measured


def judge(students: Sequence[Student], *, seed: int = 0) -> Band:
    """How well the expected loss ranks the students of one band, beside the baselines."""
    measured = np.array([s.measured for s in students])
    models = {
        "scores": np.array([s.expected for s in students]),
        "replaced": np.array([s.replaced for s in students], dtype=float),
        "latency": np.array([-s.predicted_ms for s in students]),
    }
    random = np.random.default_rng(seed)
    samples = [random.integers(len(students), size=len(students)) for _ in range(BOOTSTRAPS)]
    taus = {name: np.array([tau(model[i], measured[i]) for i in samples]) for name, model in models.items()}
    chosen = next((s.measured for s in students if s.chosen), float("nan"))
    spread = float(measured.max() - measured.min()) or 1.0
    return Band(
        budget=students[0].budget,
        students=len(students),
        tau=tau(models["scores"], measured),
        tau_interval=_interval(taus["scores"]),
        tau_replaced=tau(models["replaced"], measured),
        tau_latency=tau(models["latency"], measured),
        above_replaced=_interval(taus["scores"] - taus["replaced"]),
        above_latency=_interval(taus["scores"] - taus["latency"]),
        regret=(chosen - float(measured.min())) / spread,
    )


def tau(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's τ-b; 0 where one of them is constant.

    >>> tau(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))  # two of three pairs agree: (2 − 1) / 3
    0.333
    """
    from scipy.stats import kendalltau

    found = float(kendalltau(one, other).statistic)
    return 0.0 if np.isnan(found) else round(found, 3)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 3), round(float(high), 3)
