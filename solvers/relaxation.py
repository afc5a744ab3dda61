"""A lower bound on every selection, and on every selection that holds a given choice.

The limits are priced into the loss (Lagrangian relaxation; for one budget this is the convex hull of loss against
cost), so that the rest is a shortest path. The prices are the multipliers of the linear program, which is solved over
a few columns only: those that price out are added until none is left, as in column generation. Any multipliers give a
valid bound, so nothing here relies on the linear solver's accuracy.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .cover import Cover
from .program import Settings, run_program
from .rows import Rows
from .solution import Termination

# The cost of violating a row by its largest coefficient in the linear program, in ranges of the loss. It is large
# enough to be paid only where the limits contradict each other, and small enough for a solver's arithmetic.
PENALTY = 1e4
ROUNDS = 40
STEPS = 16
PRICED_PATHS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxation:
    """Attributes:
    bound: no selection has a loss below this.
    excess: shape (n,); no selection holding choice c has a loss below `bound + excess[c]`.
    multipliers: shape (rows,), in units of loss for each scaled unit of the row.
    """

    bound: float
    excess: np.ndarray
    multipliers: np.ndarray


class _Dual:
    """The bound as a function of the multipliers; remembers the best one and every column on a shortest path."""

    def __init__(self, cover: Cover, loss: np.ndarray, rows: Rows, visit: Callable[[list[int]], object]) -> None:
        self.cover, self.loss, self.rows, self.visit = cover, loss, rows, visit
        self.best = -np.inf
        self.multipliers = np.zeros(len(rows))
        self.pool = np.zeros(len(loss), dtype=bool)
        self.pool[rows.credit[rows.credit >= 0]] = True
        self.implied = (rows.credit >= 0) & cover.exact[rows.credit]

    def evaluate(self, multipliers: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Try multipliers (≤ 0 price an upper bound, ≥ 0 a lower one): the losses at these prices, the lightest path.

        Rows of credits that every path respects need no price: without it the bound is higher.
        """
        impossible = ((multipliers > 0) & ~np.isfinite(self.rows.lower)) | (
            (multipliers < 0) & ~np.isfinite(self.rows.upper)
        )
        multipliers = np.where(impossible, 0.0, multipliers)
        priced = self.loss - self.rows.combine(multipliers)
        multipliers = np.where(self.implied, 0.0, multipliers)
        sides = np.where(multipliers > 0, self.rows.lower, np.where(multipliers < 0, self.rows.upper, 0.0))
        weights = self.loss - self.rows.combine(multipliers)
        value, path = self.cover.path(weights)
        self.pool[path] = True
        self.visit(path)
        bound = value + float(multipliers @ sides)
        if bound > self.best:
            self.best, self.multipliers = bound, multipliers
        return priced, path


def relax(
    cover: Cover,
    loss: np.ndarray,
    rows: Rows,
    *,
    visit: Callable[[list[int]], object],
    deadline_s: float,
) -> Relaxation:
    """The bound, by column generation.

    Args:
        visit: called with every path met on the way; some of them are good selections.
        deadline_s: on the clock of `time.monotonic`; the bound reached by then is returned.
    """
    dual = _Dual(cover, loss, rows, visit)
    dual.evaluate(np.zeros(len(rows)))
    _bracket(dual)
    spread = float(np.ptp(loss)) or 1.0
    small = 1e-9 * spread
    for _ in range(ROUNDS if len(rows) else 0):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        settings = Settings(time_limit_s=left_s)
        outcome = run_program(cover, loss, rows, np.flatnonzero(dual.pool), settings, penalty=PENALTY * spread)
        if outcome.termination is not Termination.optimal:
            break
        weights, _ = dual.evaluate(outcome.row_multipliers)
        if outcome.value - dual.best <= 1e-7 * abs(outcome.value) + small:
            break
        priced = np.concatenate([[0.0], np.cumsum(outcome.layer_multipliers)])
        reduced = weights - (priced[cover.end] - priced[cover.first])
        fresh = np.flatnonzero((reduced < -small) & ~dual.pool)
        if not len(fresh):
            break
        dual.pool[fresh[np.argsort(reduced[fresh], kind="stable")[: 3 * cover.layers]]] = True
    weights, _ = dual.evaluate(dual.multipliers)
    through = cover.through(weights)
    return Relaxation(
        bound=dual.best,
        excess=through - through.min(initial=np.inf),
        multipliers=dual.multipliers,
    )


def _bracket(dual: _Dual) -> None:
    """Bisect one common price of all bounded costs, so that the first linear program starts near its solution.

    It saves little time (× 2 at most in `benchmarks/solver.py --parts`). It stays since its paths decide which of
    nearly equal selections comes out.
    """
    rows = dual.rows
    if not len(rows):
        return
    _, path = dual.evaluate(np.zeros(len(rows)))
    activity = rows.activity(path)
    direction = (activity < rows.lower).astype(float) - (activity > rows.upper)
    spread = float(np.ptp(dual.loss)) or 1.0
    low, high = -20.0, 20.0  # powers of two of loss range for one largest coefficient
    for _ in range(STEPS):
        if not direction.any():
            return
        middle = (low + high) / 2
        _, path = dual.evaluate(direction * spread * 2.0**middle)
        activity = rows.activity(path)
        missed = (activity < rows.lower) | (activity > rows.upper)
        low, high = (middle, high) if (missed & (direction != 0)).any() else (low, middle)


def priced_paths(
    cover: Cover, loss: np.ndarray, rows: Rows, multipliers: np.ndarray, *, good_enough: Callable[[list[int]], bool]
) -> None:
    """Look for a good selection by small changes of the prices: a row that a path violates becomes dearer.

    With many rows that each forbid a little (the distances to earlier solutions) this finds in milliseconds what an
    integer program takes a second for. `good_enough` is called with every path, until it returns True.
    """
    step = 0.05 * float(np.abs(multipliers).max(initial=0.0)) or 0.01 * float(np.ptp(loss))
    prices = multipliers.copy()
    for _ in range(PRICED_PATHS):
        _, path = cover.path(loss - rows.combine(prices))
        if good_enough(path):
            return
        activity = rows.activity(path)
        over, under = np.maximum(activity - rows.upper, 0.0), np.maximum(rows.lower - activity, 0.0)
        amount = float(over.sum() + under.sum())
        if amount == 0.0:  # valid, but too dear: back towards the prices of the bound, by smaller steps
            prices, step = (prices + multipliers) / 2, step * 0.7
        else:
            prices += step * (under - over) / max(float(over.max()), float(under.max()))
