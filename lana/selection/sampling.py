"""Selections other than the best: spread over all latencies, or different ones around one latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from lana.models.selection import Selection
from lana.selection.program import SelectionModel
from solvers import Limit, solve

LOSS_SIGMAS = (0.3, 1.0)  # deviations of the logarithm of the losses that students around one latency are solved with
SPREAD_SIGMA = 1.0  # of those that students spread over all latencies are solved with


def sample(
    model: SelectionModel,
    budget_ms: float,
    count: int,
    *,
    width_ratio: float = 0.05,
    sigmas: Sequence[float] = LOSS_SIGMAS,
    seed: int = 0,
) -> list[Selection]:
    """Different selections within `width_ratio` of a predicted latency, by solving with the losses perturbed."""
    problem = model.problem(budget_ms)
    low, high = (model.prediction.limit_ms(budget_ms * side) for side in (1 - width_ratio, 1 + width_ratio))
    random = np.random.default_rng(seed)
    found: dict[Selection, None] = {}
    for attempt in range(4 * count):
        if len(found) >= count:
            break
        noise = np.exp(random.normal(0.0, sigmas[attempt % len(sigmas)], problem.size))
        limit = Limit(lower=low, upper=random.uniform(low + 0.2 * (high - low), high))
        perturbed = dataclasses.replace(problem, loss=problem.loss * noise, limits={"latency_ms": limit})
        solution = solve(perturbed, gap=1e-2, seed=seed)
        if solution.found:
            found[model.selection_of(solution)] = None
    return list(found)


def spread(model: SelectionModel, shares: Iterable[float]) -> list[Selection]:
    """The best selection at each share of the way from the lowest budget to the teacher's latency."""
    found = [model.solve(budget_ms) for budget_ms in _budgets_ms(model, shares)]
    return [selection for selection in found if selection]


def spread_perturbed(model: SelectionModel, shares: Iterable[float], rng: np.random.Generator) -> list[Selection]:
    """As `spread`, each the best under scores of its own: those of one set of scores are alike."""
    found = []
    for budget_ms in _budgets_ms(model, shares):
        scores = {pair: score * float(rng.lognormal(0.0, SPREAD_SIGMA)) for pair, score in model.scores.items()}
        found.append(dataclasses.replace(model, scores=scores).solve(budget_ms))
    return [selection for selection in found if selection]


def _budgets_ms(model: SelectionModel, shares: Iterable[float]) -> list[float]:
    low_ms = max(model.predicted_ms(model.fastest()), model.lowest_ratio * model.teacher_ms)
    return [low_ms + share * (model.teacher_ms - low_ms) for share in shares]
