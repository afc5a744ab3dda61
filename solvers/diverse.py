"""Several solutions near the optimum that differ from each other: a look at each finds what the linear model misses."""

from dataclasses import replace
from math import floor
from typing import Unpack

from .ilp import GAP, solve
from .problem import DistanceLimit, SelectionProblem
from .program import Options
from .solution import Solution, Termination


def solve_diverse(
    problem: SelectionProblem,
    *,
    count: int,
    minimum_distance: int = 1,
    overlap: float | None = None,
    max_loss: float | None = None,
    further_gap: float = 1e-2,
    **options: Unpack[Options],
) -> list[Solution]:
    """Up to `count` solutions, best first, each differing from every earlier one in at least `minimum_distance` layers.

    Fewer are returned where there are no more, or where the next one's loss exceeds `max_loss`.

    Args:
        overlap: the paper's limit instead (section 3.3 there: 0.7): two share at most this part of the layers.
        options: of `solve`; the gap is that of the first, the optimum.
        further_gap: of the others. To prove that no better solution is as different takes many times as long as to find
            one. These solutions are alternatives to inspect and need not be optimal.
        max_loss: a cap on the loss of each, as an absolute sum; for one relative to the optimum, solve once before.

    >>> problem = SelectionProblem(layers=1, loss=[0.0, 0.5, 2.0], first=[0, 0, 0], span=[1, 1, 1])
    >>> [solution.chosen for solution in solve_diverse(problem, count=5, max_loss=1.0)]
    [(0,), (1,)]
    """
    if overlap is not None:
        minimum_distance = max(1, problem.layers - floor(overlap * problem.layers + 1e-9))
    solutions: list[Solution] = []
    further: Options = {**options, "gap": max(options.get("gap", GAP), further_gap)}
    while len(solutions) < count:
        distances = (*problem.distances, *(DistanceLimit(chosen=s.chosen, minimum=minimum_distance) for s in solutions))
        solution = solve(replace(problem, distances=distances), **(further if solutions else options))
        if not solution.found or (max_loss is not None and solution.objective > max_loss):
            break
        solutions.append(solution)
        if solution.termination is not Termination.optimal:
            break  # the time is spent: another one would cost as much again
    return sorted(solutions, key=lambda solution: solution.objective)
