"""Credits inside the solvers: each becomes a column of the program, and bounds what a choice may save.

The column y of a credit lies in 0 … 1 and has negative costs. The rows y ≤ Σ producers and y ≤ Σ consumers
(`solvers.rows`) make it exact, since a selection holds one choice of each side at most.
"""

from collections.abc import Collection

import numpy as np

from .cover import Cover
from .problem import Credit, SelectionProblem


def amount_of(credit: Credit, name: str | None) -> float:
    """By how much a credit lowers a cost, or the loss where `name` is None."""
    return credit.loss if name is None else credit.amounts.get(name, 0.0)


def with_credits(problem: SelectionProblem, name: str | None) -> np.ndarray:
    """A cost (None: the loss) of every column: of the choices, then of the credits, which are negative."""
    values = problem.loss if name is None else problem.costs[name]
    return np.concatenate([values, [-amount_of(credit, name) for credit in problem.credits]])


def columns_of(problem: SelectionProblem, kept: np.ndarray) -> tuple[np.ndarray, Cover, np.ndarray]:
    """The columns of a program over the choices `kept`: their numbers, their cover, their losses.

    The choices come first, then the credits that they can earn, numbered from `problem.size` on.
    """
    offered = set(kept.tolist())
    limited = [None, *problem.limits]
    live = [
        column
        for column, credit in enumerate(problem.credits, start=problem.size)
        if not offered.isdisjoint(credit.producers) and not offered.isdisjoint(credit.consumers)
        if any(amount_of(credit, name) for name in limited)
    ]
    columns = np.concatenate([kept, np.array(live, dtype=np.int64)])
    place = {choice: i for i, choice in enumerate(kept.tolist())}
    credits = [problem.credits[column - problem.size] for column in live]
    sides = [
        (
            [place[choice] for choice in credit.producers if choice in place],
            [place[choice] for choice in credit.consumers if choice in place],
        )
        for credit in credits
    ]
    cover = Cover(problem.layers, problem.first[kept], problem.span[kept], sides)
    return columns, cover, with_credits(problem, None)[columns]


def optimistic(problem: SelectionProblem, name: str) -> np.ndarray:
    """A cost of every choice as if it earned every credit whose other side lies before it.

    The sum over a selection is never above its true cost, since each credit is counted at one of its sides.
    """
    cost = problem.costs[name]
    if problem.credits:
        cost = cost.copy()
    for credit in problem.credits:
        cost[list(_later_side(problem, credit))] -= amount_of(credit, name)
    return cost


def _later_side(problem: SelectionProblem, credit: Credit) -> tuple[int, ...]:
    """All choices of a side share a layer, so the sides lie in the same order in every selection that holds both."""
    starts = [int(problem.first[list(side)].max(initial=-1)) for side in (credit.producers, credit.consumers)]
    return credit.consumers if starts[1] >= starts[0] else credit.producers


def membership(problem: SelectionProblem) -> np.ndarray:
    """Shape (n, 2 credits): whether a choice stands on a side of a credit."""
    held = np.zeros((problem.size, 2 * len(problem.credits)), dtype=bool)
    for number, credit in enumerate(problem.credits):
        held[list(credit.producers), 2 * number] = True
        held[list(credit.consumers), 2 * number + 1] = True
    return held


def missing(held: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Entry i, j: the most that choice i can earn and choice j, in its place, cannot.

    Args:
        held: rows of `membership`, for choices that cover the same layers.
        amounts: of each credit.
    """
    live = held.any(axis=0)
    inside = held[:, live].astype(float)
    lost: np.ndarray = (inside * np.repeat(amounts, 2)[live]) @ (1.0 - inside).T
    return lost


class Earnings:
    """The credits that a choice earns beside others, for searches that build a selection step by step."""

    def __init__(self, problem: SelectionProblem) -> None:
        self._other_sides: dict[int, list[tuple[frozenset[int], Credit]]] = {}
        for credit in problem.credits:
            for side, other in ((credit.producers, credit.consumers), (credit.consumers, credit.producers)):
                for choice in side:
                    self._other_sides.setdefault(choice, []).append((frozenset(other), credit))

    def of(self, choice: int, others: Collection[int], name: str | None) -> float:
        """By how much `choice` lowers a cost (None: the loss), since it stands beside `others`."""
        return sum(
            amount_of(credit, name)
            for other_side, credit in self._other_sides.get(choice, ())
            if not other_side.isdisjoint(others)
        )
