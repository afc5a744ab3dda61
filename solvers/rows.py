"""Every limit of a problem as linear rows `lower ≤ A z ≤ upper` over its columns, scaled to coefficients of size 1.

The columns are the choices and, after them, the credits (see `solvers.credits`).
"""

from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np

from .credits import with_credits
from .problem import SelectionProblem, bounds_of

Raw = tuple[np.ndarray, np.ndarray, float, float]  # columns, coefficients, lower, upper


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Sparse rows: entry e says A[row[e], column[e]] = value[e]. Bounds have shape (m,), infinite where open.

    `credit` names the column of the credit that a row is part of, −1 elsewhere.
    """

    row: np.ndarray
    column: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    credit: np.ndarray
    columns: int

    def __len__(self) -> int:
        return len(self.lower)

    def combine(self, multipliers: np.ndarray) -> np.ndarray:
        """Aᵀ multipliers, shape (n,)."""
        weights = self.value * multipliers[self.row]
        return np.bincount(self.column, weights=weights, minlength=self.columns)

    def activity(self, chosen: list[int]) -> np.ndarray:
        """A z of a selection, shape (m,)."""
        taken = np.zeros(self.columns)
        taken[chosen] = 1.0
        return np.bincount(self.row, weights=self.value * taken[self.column], minlength=len(self))


def _limit_rows(problem: SelectionProblem) -> list[Raw]:
    everything = np.arange(problem.size + len(problem.credits))
    raw: list[Raw] = [
        (everything, with_credits(problem, name), *bounds_of(limit))
        for name, limit in problem.limits.items()
    ]  # fmt: skip
    for count in problem.counts:
        raw.append((np.array(count.choices, dtype=np.int64), np.ones(len(count.choices)), *bounds_of(count)))
    for tie in problem.ties:
        for one, other in pairwise(tie):
            raw.append((np.array([one, other]), np.array([1.0, -1.0]), 0.0, 0.0))
    # Distances come last, so that multipliers of earlier rows keep their places when a problem gains distances.
    for distance in problem.distances:
        chosen = np.array(distance.chosen, dtype=np.int64)
        allowed = float(problem.layers - distance.minimum)
        raw.append((chosen, problem.span[chosen].astype(np.float64), -inf, allowed))
    return raw


def _credit_rows(problem: SelectionProblem, column: int) -> list[Raw]:
    """y ≤ Σ producers, y ≤ Σ consumers and, where a lower limit would rather have y = 0, y ≥ both sums − 1."""
    rows: list[Raw] = []
    credit = problem.credits[column - problem.size]
    for side in (credit.producers, credit.consumers):
        rows.append((np.array([column, *side]), np.array([1.0] + [-1.0] * len(side)), -inf, 0.0))
    if any(limit.lower is not None and credit.amounts.get(name) for name, limit in problem.limits.items()):
        both = (*credit.producers, *credit.consumers)
        rows.append((np.array([column, *both]), np.array([1.0] + [-1.0] * len(both)), -1.0, inf))
    return rows


def rows_of(problem: SelectionProblem, kept: np.ndarray) -> Rows:
    """The rows of a problem over the columns `kept` (ascending), renumbered 0 … len(kept) − 1.

    A row is divided by its largest coefficient, so milliseconds of 1e-3 and parameters of 1e8 reach a solver alike.
    """
    place = np.full(problem.size + len(problem.credits), -1)
    place[kept] = np.arange(len(kept))
    limits, earned = _limit_rows(problem), [number for number in kept.tolist() if number >= problem.size]
    coupling = [(int(place[number]), raw) for number in earned for raw in _credit_rows(problem, number)]
    row, column, value, lower, upper = [], [], [], [], []
    for number, (choices, coefficients, low, high) in enumerate([*limits, *(raw for _, raw in coupling)]):
        inside = (place[choices] >= 0) & (coefficients != 0)
        scale = float(np.abs(coefficients[inside]).max(initial=0.0)) or 1.0
        row.append(np.full(int(inside.sum()), number))
        column.append(place[choices[inside]])
        value.append(coefficients[inside] / scale)
        lower.append(low / scale)
        upper.append(high / scale)
    empty: list[np.ndarray] = [np.zeros(0)]
    return Rows(
        row=np.concatenate(row or empty).astype(np.int64),
        column=np.concatenate(column or empty).astype(np.int64),
        value=np.concatenate(value or empty),
        lower=np.array(lower, dtype=np.float64),
        upper=np.array(upper, dtype=np.float64),
        credit=np.array([-1] * len(limits) + [at for at, _ in coupling], dtype=np.int64),
        columns=len(kept),
    )
