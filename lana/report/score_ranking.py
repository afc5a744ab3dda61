"""Is the ranking true? Students of nearly one latency, their expected loss compared with the measured one.

Across wide ranges of latency anything ranks well, so students are drawn inside narrow bands, by perturbing the
program's objective. Kendall's τ of the corrected scores is compared with that of their plain sum (the paper's model)
and of two plain baselines: the number of replaced layers and the latency. The regret is the loss of the choice over the
best of those measured, as a share of the band's spread. All is measured on images that the correction has not seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from lana.common.console import make_console
from lana.common.files import write_json
from lana.common.progress import Progress
from lana.errors import UserError
from lana.evaluation.distance import DistanceToTeacher
from lana.models.selection import Selection
from lana.networks.mixed_precision import Compute
from lana.pipeline import open_finished
from lana.pool.stages import Pool
from lana.runs.context import RunContext
from lana.selection.measurement import LOSS_IMAGES, NORM_IMAGES, assembled
from lana.selection.program import SelectionModel
from lana.selection.sampling import sample
from lana.selection.search import BudgetSearch

BAND_RATIOS = (0.7, 0.5, 0.35)
BAND_WIDTH_RATIO = 0.05  # how far a latency may be from the middle of its band
LOSS_SIGMAS = (0.3, 1.0, 2.0)  # deviations of the logarithm of the losses that students are drawn with
MIN_STUDENTS = 4  # students of a band, to rank anything
BOOTSTRAP_SAMPLES = 1000
PLAIN_MODELS = ("replaced", "latency")


@dataclass(frozen=True, kw_only=True)
class Student:
    """One student of a band.

    Losses are distances to the teacher: `expected` by the corrected scores, `plain` by their sum.
    """

    budget: str
    expected: float
    plain: float
    measured: float
    replaced: int
    predicted_ms: float
    chosen: bool
    selection: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Kendall's τ of each model of the loss and the regret of the choice.

    `above` is the lead of the corrected scores' τ over the others: 95% intervals of a paired bootstrap.
    """

    budget: str
    students: int
    tau: Mapping[str, float]
    tau_interval: tuple[float, float]
    above: Mapping[str, tuple[float, float]]
    regret: float
    spread: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All bands with all students."""

    bands: Sequence[Band]
    students: Sequence[Student]

    def show(self) -> None:
        """Print one line a band."""
        table = Table(title="Kendall τ of expected against measured loss, within ±5% of a latency")
        for column in ("latency", "students", "corrected", "95%", "plain sum", "layers replaced", "latency", "regret"):
            table.add_column(column, justify="right")
        for band in self.bands:
            others = [f"{band.tau[name]:.2f} ({_text(band.above[name])})" for name in ("plain", *PLAIN_MODELS)]
            table.add_row(
                band.budget,
                str(band.students),
                f"{band.tau['corrected']:.2f}",
                _text(band.tau_interval),
                *others,
                f"{band.regret:.1%}",
            )
        make_console().print(table, "In brackets: how far the corrected scores are above.")


def validate(
    out: Path | str, *, students: int = 60, budgets: Sequence[float] = BAND_RATIOS, quiet: bool = False
) -> Ranking:
    """Measure `students` students in each band of latency; the result is kept in the run, for its report.

    Raises:
        UserError: the run is not finished, or has too few selections at a latency to rank anything.
    """
    with open_finished(out, quiet=quiet) as (context, _, pool, search):
        drawn = {f"{budget:g}x": draw(search, budget, students, context.recipe.seed) for budget in budgets}
        few = [budget for budget, selections in drawn.items() if len(selections) < MIN_STUDENTS]
        if few:
            raise UserError(
                f"At {', '.join(few)} there are fewer than {MIN_STUDENTS} students: nothing can be ranked there."
            )
        measured = _measure(context, pool, search.model, drawn)
        ranking = Ranking(bands=[judge([s for s in measured if s.budget == b]) for b in drawn], students=measured)
        write_json(context.run.pool / "ranking.json", dataclasses.asdict(ranking))
        return ranking


def draw(search: BudgetSearch, budget: float, count: int, seed: int) -> list[Selection]:
    """Different selections around a latency; the first is the one that would be chosen within the band's upper end."""
    middle_ms = budget * search.model.teacher_ms
    search.begin(f"ranking {budget:g}x")
    search.refine(middle_ms)
    model = search.model
    chosen = model.choice(middle_ms * (1 + BAND_WIDTH_RATIO))  # the others may be as slow: nothing else would be fair
    fitted = len(model.losses)  # those that the correction was fitted on do not show how truly it ranks
    others = sample(model, middle_ms, count + fitted, width_ratio=BAND_WIDTH_RATIO, sigmas=LOSS_SIGMAS, seed=seed + 100)
    fresh = [s for s in others if s != chosen and s not in model.measured_losses]
    return ([chosen] if chosen else []) + fresh[: count - 1]


def _measure(
    context: RunContext, pool: Pool, model: SelectionModel, drawn: Mapping[str, Sequence[Selection]]
) -> list[Student]:
    recipe = context.recipe
    split = context.data.train.subset(LOSS_IMAGES, recipe.seed + 4)
    compute = Compute(recipe.compute.device, recipe.finetuning.precision)
    distance = DistanceToTeacher(context.teacher.module, split, context.task, compute)
    measured: list[Student] = []
    total = sum(map(len, drawn.values()))
    with Progress(f"Measuring the loss of {total} students", total) as progress:
        for budget, selections in drawn.items():
            losses = model.corrected_scores(float(budget[:-1]) * model.teacher_ms)
            for index, selection in enumerate(selections):
                student = assembled(context, pool, selection, NORM_IMAGES, recipe.finetuning.precision)
                measured.append(
                    Student(
                        budget=budget,
                        expected=losses.total(selection.items()),
                        plain=sum(model.scores[pair] for pair in selection.items()),
                        measured=float(distance.measure(student).mean()),
                        replaced=len(selection.replaced_layers),
                        predicted_ms=model.predicted_ms(selection),
                        chosen=index == 0,
                        selection=dict(selection),
                    )
                )
                progress.update(len(measured), budget)
    return measured


def judge(students: Sequence[Student]) -> Band:
    """How well each model of the loss ranks the students of one band; one that gives no finite outputs has no rank.

    Raises:
        UserError: fewer than `MIN_STUDENTS` have one.
    """
    band, students = students[0].budget, [s for s in students if math.isfinite(s.measured)]
    if len(students) < MIN_STUDENTS:
        raise UserError(
            f"Only {len(students)} of the students at {band} give finite outputs: nothing can be ranked there. "
            "Leave that one out with --budget, or give more --students."
        )
    measured = np.array([s.measured for s in students])
    models = {
        "corrected": np.array([s.expected for s in students]),
        "plain": np.array([s.plain for s in students]),
        "replaced": np.array([s.replaced for s in students], dtype=float),
        "latency": np.array([-s.predicted_ms for s in students]),
    }
    random = np.random.default_rng(0)
    samples = [random.integers(len(students), size=len(students)) for _ in range(BOOTSTRAP_SAMPLES)]
    taus = {name: np.array([tau(model[i], measured[i]) for i in samples]) for name, model in models.items()}
    chosen = next((s.measured for s in students if s.chosen), float("nan"))
    low, high = float(measured.min()), float(measured.max())
    return Band(
        budget=band,
        students=len(students),
        tau={name: tau(model, measured) for name, model in models.items()},
        tau_interval=_interval(taus["corrected"]),
        above={name: _interval(taus["corrected"] - taus[name]) for name in ("plain", *PLAIN_MODELS)},
        regret=(chosen - low) / ((high - low) or 1.0),
        spread=(low, high),
    )


def tau(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's τ-b; 0 where one of them is constant.

    >>> tau(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))  # two of three pairs agree: (2 − 1) / 3
    0.333
    """
    from scipy.stats import kendalltau

    value = float(kendalltau(one, other).statistic)
    return 0.0 if np.isnan(value) else round(value, 3)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 3), round(float(high), 3)


def _text(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.2f} to {interval[1]:+.2f}"
