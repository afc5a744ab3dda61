"""Choices that no optimal selection needs, removed before anything is solved; every removal is exact.

Dominance saves little time (× 1.4 at most in `benchmarks/solver.py --parts`). It stays since it decides which of
nearly equal selections comes out.
"""

import numpy as np

from .cover import segments
from .credits import amount_of, columns_of, membership, missing, with_credits
from .problem import SelectionProblem, bounds_of
from .verify import TOLERANCE


def reduced(problem: SelectionProblem) -> np.ndarray:
    """Indices of the choices that may matter, ascending; empty where it is plain that nothing fits.

    A choice is removed if no valid selection can contain it: it is forbidden, overlaps a fixed one, or lies on no cover
    within some limit. A choice that another one beats in every respect is removed too.

    >>> problem = SelectionProblem(layers=1, loss=[0.0, 0.1, 0.2], first=[0, 0, 0], span=[1, 1, 1])
    >>> reduced(problem)  # without limits the least loss beats all others
    array([0])
    """
    allowed = _possible(problem)
    if allowed.any():
        allowed &= ~_dominated(problem, allowed)
    return np.flatnonzero(allowed)


def _possible(problem: SelectionProblem) -> np.ndarray:
    nothing = np.zeros(problem.size, dtype=bool)
    end = problem.first + problem.span
    allowed = np.ones(problem.size, dtype=bool)
    allowed[list(problem.forbidden)] = False
    ties = [np.array(tie, dtype=np.int64) for tie in problem.ties]
    for tie in ties:
        inner = np.unique(tie)
        inner = inner[np.argsort(problem.first[inner])]
        if (end[inner][:-1] > problem.first[inner][1:]).any():
            allowed[inner] = False
    for choice in problem.fixed:
        overlapping = (problem.first < end[choice]) & (end > problem.first[choice])
        overlapping[choice] = False
        allowed &= ~overlapping
    if any(distance.minimum > problem.layers for distance in problem.distances):
        return nothing

    columns, cover, _ = columns_of(problem, np.arange(problem.size))
    credits = np.zeros(len(columns) - problem.size)
    bounded = [(with_credits(problem, name)[columns], *bounds_of(limit)) for name, limit in problem.limits.items()]
    for count in problem.counts:
        member = np.zeros(len(columns))
        member[list(count.choices)] = 1.0
        bounded.append((member, *bounds_of(count)))
    while True:
        before = int(allowed.sum())
        for tie in ties:
            allowed[tie] &= bool(allowed[tie].all())
        outside = np.append(np.where(allowed, 0.0, np.inf), credits)
        allowed &= np.isfinite(cover.through(outside)[: problem.size])
        for cost, lower, upper in bounded:
            # Twice the tolerance of the final check, on the largest sum there can be: never removes what it accepts.
            largest = np.abs(cost[: problem.size][allowed]).max(initial=0.0) + np.abs(cost[problem.size :]).sum()
            slack = 2 * TOLERANCE * problem.layers * float(largest)
            for sign, bound in ((1.0, upper), (-1.0, -lower)):
                if np.isfinite(bound):
                    outside = np.append(np.where(allowed, 0.0, np.inf), credits)
                    allowed &= cover.through(sign * cost + outside)[: problem.size] <= bound + slack
                elif bound < 0:
                    return nothing
        if not allowed[list(problem.fixed)].all():
            return nothing
        if int(allowed.sum()) == before or not allowed.any():
            return allowed


def _dominated(problem: SelectionProblem, allowed: np.ndarray) -> np.ndarray:
    """Choices beaten by another that covers the same layers, in loss and in every limited cost.

    Only among choices that nothing but the limits on costs speaks of: swapping one of these for another can break
    no tie, count, distance or pin. A lower limit asks for more of a cost, so then more is better; both bounds: equal.
    The better one stays so even if the other earns all credits that only one of them can earn.
    """
    plain = allowed.copy()
    named = [problem.fixed, *problem.ties]
    named += [count.choices for count in problem.counts] + [distance.chosen for distance in problem.distances]
    for group in named:
        plain[list(group)] = False
    sides: list[tuple[np.ndarray, str | None, bool]] = [(problem.loss, None, True)]
    for name, limit in problem.limits.items():
        if limit.upper is not None:
            sides.append((problem.costs[name], name, True))
        if limit.lower is not None:
            sides.append((-problem.costs[name], name, False))
    held = membership(problem)
    amounts = {name: np.array([amount_of(credit, name) for credit in problem.credits]) for _, name, _ in sides}
    dominated = np.zeros(problem.size, dtype=bool)
    choices = np.flatnonzero(plain)
    if not len(choices):
        return dominated
    for segment in segments(problem.first[choices], problem.span[choices]):
        members = choices[segment]
        # In lexicographic order a choice can be beaten only by an earlier one; of equals the first stays.
        members = members[np.lexsort((members, *(side[members] for side, *_ in reversed(sides))))]
        beaten = np.tri(len(members), k=-1, dtype=bool)
        for side, cost, less in sides:
            values, lost = side[members], missing(held[members], amounts[cost])
            beaten &= values[None, :] <= values[:, None] - (lost if less else lost.T)
        dominated[members] = beaten.any(axis=1)
    return dominated
