"""The losses of students, measured, and the scores of single operations corrected by them.

A score is of one operation alone in the teacher. Together operations lose more than the sum, and not evenly: neighbours
interact. So, as with latency, the coefficients that the integer program sees are a regression on measured students,
with the single scores as the prior: still linear in the choices, and true where it is asked, around one latency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lana.models.selection import Pair, Selection

MIN_MEASURED_STUDENTS = 8  # with fewer students the plain sum is as good

NEAR_LATENCY_RATIO = 0.05  # a student this far away in latency, as a share, counts half as much as one at the budget

LOSS_ERROR_RATIO = 0.05  # of a measured loss: what a linear model cannot say of students that are alike

CORRECTION_RATIOS = (0.03, 0.1, 0.3, 1.0, 3.0)  # of its score that a coefficient may move: the likeliest is taken

MIN_SCORE_SLOPE = 0.2  # of the sum of scores: a few students that run against it must not make every operation free

MIN_SPREAD_RATIO = 0.2  # of the mean score: how far even the best operation's coefficient may move


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What students of about one latency lose: a constant, and a coefficient for each operation in them."""

    of: Mapping[Pair, float]
    constant: float = 0.0

    def total(self, pairs: Iterable[Pair]) -> float:
        """The loss of a student of these operations."""
        return max(0.0, self.constant + sum(self.of[pair] for pair in pairs))


def corrected(
    singles: Mapping[Pair, float], measured: Sequence[tuple[Selection, float]], distances: Sequence[float]
) -> Losses:
    """What students lose, given the measured losses of some.

    The most probable ones when the loss of a student is an unknown constant plus an unknown multiple of the sum of its
    scores plus a deviation of each operation's own, of the order of its score. `distances` says how far each student's
    latency is from where the coefficients are wanted, as a share: far ones count less. The multiple has a floor.

    With fewer than eight students these are the scores themselves.
    """
    if len(measured) < MIN_MEASURED_STUDENTS:
        return Losses(of=dict(singles))
    pairs = list(singles)
    position = {pair: index for index, pair in enumerate(pairs)}
    prior = np.array([singles[pair] for pair in pairs])
    chosen = np.zeros((len(measured), len(pairs)))
    for row, (selection, _) in enumerate(measured):
        chosen[row, [position[pair] for pair in selection.items()]] = 1.0
    losses, sums = np.array([loss for _, loss in measured]), chosen @ prior
    spread = (np.abs(prior) + MIN_SPREAD_RATIO * np.abs(prior[prior != 0]).mean()) * (prior != 0)
    farther = 1 + np.square(np.array(distances) / NEAR_LATENCY_RATIO)
    noise = LOSS_ERROR_RATIO * np.maximum(losses, 0.01 * np.abs(losses).mean()) * farther
    best: tuple[float, float, np.ndarray] | None = None
    for strength in CORRECTION_RATIOS:
        own = np.square(strength * spread)
        deviations = losses.mean() ** 2 + (chosen * own) @ chosen.T + np.diag(noise**2)
        explained, surprise = _regress(losses - sums, deviations + np.outer(sums, sums))
        slope = 1.0 + float(sums @ explained)
        if slope < MIN_SCORE_SLOPE:
            slope = MIN_SCORE_SLOPE
            explained, surprise = _regress(losses - slope * sums, deviations)
        if best is None or surprise < best[0]:
            constant = float(losses.mean() ** 2 * explained.sum())
            best = (surprise, constant, prior * slope + own * (chosen.T @ explained))
    _, constant, found = best or (0.0, 0.0, prior)
    of = {pair: max(0.0, float(value)) for pair, value in zip(pairs, found, strict=True)}
    return Losses(of=of, constant=constant)


def _regress(residual: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """The residual in units of its covariance, and how surprising it is: twice the negative logarithm of the evidence.

    Leaving one out would choose too strong a correction: students near a budget are alike, and the others say nearly
    all of the one left out.
    """
    explained = np.linalg.solve(covariance, residual)
    return explained, float(residual @ explained + np.linalg.slogdet(covariance)[1])
