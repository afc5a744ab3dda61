"""The reverse problem (the least cost within a loss), and an explanation when nothing fits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from .errors import InvalidProblem, SolverError
from .ilp import solve
from .problem import Limit, SelectionProblem
from .solution import Solution, Termination

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
    """The selection of least `cost`, its own upper limit left out and every other one held.

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
    problem.require_cost(cost)
    if LOSS in problem.costs:
        raise InvalidProblem(f"A cost named {LOSS!r} clashes with the bound on the loss. Rename it.")
    limits = dict(within(problem, cost, None).limits)
    if max_loss is not None:
        limits[LOSS] = Limit(upper=max_loss)
    turned = replace(
        problem,
        loss=problem.costs[cost],
        costs={**problem.costs, LOSS: problem.loss},
        limits=limits,
        credits=tuple(
            replace(credit, loss=credit.amounts.get(cost, 0.0), amounts={**credit.amounts, LOSS: credit.loss})
            for credit in problem.credits
        ),
    )
    return solve(turned, solver=solver, time_limit_s=time_limit_s, gap=gap, seed=seed)


def within(problem: SelectionProblem, cost: str, upper: float | None) -> SelectionProblem:
    """The problem with another upper limit on one cost, or none; its lower limit stays."""
    limit = replace(problem.limits.get(cost, Limit()), upper=upper)
    return replace(problem, limits={**problem.limits, cost: limit})


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why no selection is valid.

    Attributes:
        conflict: the limits that contradict each other, by name; without any one of them the others can be met.
        reachable: limited cost → its least sum with no other limit on a cost.
        needed: limited cost in the conflict → the least upper limit with which everything else can be held; `inf`
            where raising it alone does not help.
    """

    conflict: tuple[str, ...]
    reachable: Mapping[str, float]
    needed: Mapping[str, float]

    def __str__(self) -> str:
        parts = [f"These limits cannot be met together: {', '.join(self.conflict)}."]
        for name, value in self.needed.items():
            alone = "cannot help alone" if value == inf else f"would have to be at least {value:.6g}"
            parts.append(f"{name} {alone} (reachable by itself: {self.reachable[name]:.6g}).")
        return " ".join(parts)


def explain(problem: SelectionProblem, *, solver: str = "HiGHS", time_limit_s: float = 60.0) -> Explanation | None:
    """Which limits of a problem contradict each other, and how much each would have to give; None where they do not.

    A deletion filter leaves out one limit after the other to find the conflict. It is one irreducible set; there may be
    several. A limit that is undecided when time runs out stays in the set.

    Raises:
        SolverError: the time limit passes before a contradiction is proved or excluded.

    >>> problem = SelectionProblem(layers=1, loss=[0, 0], first=[0, 0], span=[1, 1],
    ...     costs={"cpu": [1.0, 3.0], "gpu": [2.0, 1.0]}, limits={"cpu": Limit(upper=2.0), "gpu": Limit(upper=1.5)})
    >>> print(explain(problem))
    These limits cannot be met together: cpu, gpu. cpu would have to be at least 3 (reachable by itself: 1). \
gpu would have to be at least 2 (reachable by itself: 1).
    """

    def looked_at(candidate: SelectionProblem) -> Solution:
        return solve(candidate, solver=solver, time_limit_s=time_limit_s, gap=1.0)  # any answer will do

    first = looked_at(problem)
    if first.found:
        return None
    if first.termination is not Termination.infeasible:
        raise SolverError(f"Within {time_limit_s:g} s no selection was found, and none was excluded. Allow more time.")
    conflict, rest = [], problem
    for name, without in _parts(problem):
        relaxed = without(rest)
        if looked_at(relaxed).termination is Termination.infeasible:
            rest = relaxed
        else:
            conflict.append(name)
    budgets = [name for name, limit in problem.limits.items() if limit.upper is not None]
    bare = replace(problem, limits={})
    reachable = {name: fastest(bare, name, solver=solver, time_limit_s=time_limit_s).objective for name in budgets}
    needed = {
        name: fastest(problem, name, solver=solver, time_limit_s=time_limit_s).objective
        for name in budgets
        if name in conflict
    }
    return Explanation(conflict=tuple(conflict), reachable=reachable, needed=needed)


def _parts(problem: SelectionProblem) -> list[tuple[str, Any]]:
    """Everything that can be left out: its name, and a function from a problem to the same without it."""
    parts: list[tuple[str, Any]] = []
    for name in problem.limits:
        parts.append((name, lambda p, n=name: replace(p, limits={k: v for k, v in p.limits.items() if k != n})))
    for choice in problem.fixed:
        parts.append(
            (
                f"fixed {problem.name_of(choice)}",
                lambda p, c=choice: replace(p, fixed=tuple(x for x in p.fixed if x != c)),
            )
        )
    if problem.forbidden:
        parts.append(("forbidden choices", lambda p: replace(p, forbidden=())))
    for index, tie in enumerate(problem.ties):
        parts.append((f"tie {index}", lambda p, t=tie: replace(p, ties=tuple(x for x in p.ties if x is not t))))
    for count in problem.counts:
        parts.append((count.name, lambda p, c=count: replace(p, counts=tuple(x for x in p.counts if x is not c))))
    for index, distance in enumerate(problem.distances):
        parts.append(
            (
                f"distance {index}",
                lambda p, d=distance: replace(p, distances=tuple(x for x in p.distances if x is not d)),
            )
        )
    return parts
