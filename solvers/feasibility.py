"""The other way round, and what to say when nothing fits."""

from dataclasses import dataclass, replace

from .errors import InvalidProblem
from .ilp import solve
from .problem import Limit, SelectionProblem
from .solution import Solution

LOSS = "loss"


def fastest(
    problem: SelectionProblem,
    cost: str,
    *,
    max_loss: float | None = None,
    solver: str = "HiGHS",
    time_limit_s: float = 60.0,
    gap: float = 1e-6,
    seed: int = 0,
) -> Solution:
    """The selection of least `cost`, its own limit left out and every other one held.

    The solution's `objective` and `bound` are in the unit of the cost, and its costs include the summed "loss".

    Args:
        max_loss: an upper bound on the summed loss; None for any loss.

    >>> problem = SelectionProblem(layers=1, loss=[0.0, 0.5, 0.9], first=[0, 0, 0], span=[1, 1, 1],
    ...     costs={"ms": [3.0, 2.0, 1.0]}, limits={"ms": Limit(upper=0.5)})
    >>> fastest(problem, "ms").objective
    1.0
    >>> fastest(problem, "ms", max_loss=0.6).objective
    2.0
    """
    if cost not in problem.costs:
        raise InvalidProblem(f"No cost {cost!r}; the costs are: {', '.join(problem.costs) or 'none'}.")
    if LOSS in problem.costs:
        raise InvalidProblem(f"A cost named {LOSS!r} stands in the way of bounding the loss. Rename it.")
    limits = {name: limit for name, limit in problem.limits.items() if name != cost}
    if max_loss is not None:
        limits[LOSS] = Limit(upper=max_loss)
    turned = replace(
        problem, loss=problem.costs[cost], costs={**problem.costs, LOSS: problem.loss}, limits=limits
    )
    return solve(turned, solver=solver, time_limit_s=time_limit_s, gap=gap, seed=seed)
