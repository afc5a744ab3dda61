"""The whole curve of loss against one cost: every point optimal for its budget."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from .feasibility import fastest, within
from .ilp import solve
from .problem import SelectionProblem
from .program import Options
from .solution import Solution


def frontier(
    problem: SelectionProblem,
    cost: str,
    *,
    points: int = 50,
    budgets: Sequence[float] | None = None,
    **options: Unpack[Options],
) -> list[Solution]:
    """Selections of least loss for growing budgets of `cost`, each one different, from the fastest to the best.

    A solution that stays below its budget is optimal for every budget down to its own cost. Budgets in between are not
    solved again.

    Args:
        points: budgets evenly spaced from the least reachable cost to that of the least loss.
        budgets: these instead.
        options: of `solve`, for each point.

    >>> problem = SelectionProblem(layers=1, loss=[0.0, 0.5, 0.9], first=[0, 0, 0], span=[1, 1, 1],
    ...     costs={"ms": [3.0, 2.0, 1.0]})
    >>> [(point.costs["ms"], point.objective) for point in frontier(problem, "ms")]
    [(1.0, 0.9), (2.0, 0.5), (3.0, 0.0)]
    """
    if budgets is None:
        exact: Options = {**options, "gap": 1e-6}
        least = fastest(problem, cost, **exact)
        best = solve(within(problem, cost, None), **options)
        if not least.found or not best.found:
            return []
        budgets = np.linspace(least.costs[cost], best.costs[cost], points).tolist()
    lower = problem.limits[cost].lower if cost in problem.limits else None
    if lower is not None:  # below it nothing is asked for
        budgets = sorted({max(budget, lower) for budget in budgets})
    solutions: list[Solution] = []
    # From the largest budget down: what stays far below its budget answers for all budgets in between.
    for budget in sorted(budgets, reverse=True):
        if solutions and solutions[-1].costs[cost] <= budget:
            continue
        solution = solve(within(problem, cost, budget), **options)
        if not solution.found:
            break
        if solutions and solution.objective <= solutions[-1].objective:  # as good and cheaper: a tie
            solutions.pop()
        solutions.append(solution)
    return solutions[::-1]
