"""The latency of a whole network from columns of the table, corrected by measured networks.

A sum of isolated measurements misses what happens between them (fusion across borders, cold caches, the dispatch of
each part), so the prediction is a regression on additive columns, fitted on measured students, and linear in the
choices, as the integer program needs it. What is left bends with the size of the network (the teacher and the smallest
students are fused best, those in between least), so the sum goes through an increasing curve; a budget goes back.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Column → what one unit of it costs before anything is measured, and how far the fit may pull it from there. An
# isolated millisecond is expected to cost a millisecond, give or take 0.15; of what cold caches add, a tenth, give or
# take as much (in a network, inputs come warm from the layer before, weights do not); one operation more, nothing, give
# or take 5 µs.
COEFFICIENT_PRIORS: Mapping[str, tuple[float, float]] = {
    "latency_ms": (1.0, 0.15),
    "cold_ms": (0.1, 0.1),
    "operations": (0.0, 0.005),
}
# Columns of another kind than milliseconds → the share of the slowest measured network that the fit may give to them.
# Multiply-adds: arithmetic counts otherwise when other work surrounds it. Numbers at the borders, in and out: alone, an
# operation reads and writes the layout of its file, among others the one that its neighbours use. Numbers that its
# operators write: wide maps inside an operation stay in the caches when it runs alone.
# Numbers at the ends of int8 operations, less those at borders between two of them: there layouts and types change.
COLUMN_SHARES: Mapping[str, float] = {"macs": 0.05, "border": 0.05, "activations": 0.05, "mixed_border": 0.1}
COLUMNS = (*COEFFICIENT_PRIORS, *COLUMN_SHARES)
INT8_COLUMN = "mixed_border"  # is fitted where a measured network has int8 operations
# How far the curve may go from the sum: constant, linear and square in the share of the sum.
BEND_DEVIATIONS = (0.15, 0.15, 0.15)
MIN_SLOPE = 0.25  # of the curve
MEASUREMENT_ERROR_RATIO = 0.02  # the relative error of one measurement
# Of the teacher's latency: the error of any linear model. Without it one tiny student would bend all others.
MODEL_ERROR_RATIO = 0.005


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """`intercept_ms` for what no choice changes, and milliseconds per unit of each column; their sum, bent.

    A sum s takes s · (1 + Σ bend[k] · (s / top_ms)^k) milliseconds, the share s / top_ms at most 1.
    """

    intercept_ms: float
    coefficients: Mapping[str, float]
    bend: tuple[float, ...] = ()
    top_ms: float = 1.0

    def part_ms(self, columns: Mapping[str, float]) -> float:
        """What one operation adds to the network, at least nothing."""
        return max(0.0, self.change_ms(columns))

    def change_ms(self, columns: Mapping[str, float]) -> float:
        """The milliseconds that columns add to the network; below zero for a saving between int8 neighbours."""
        return sum(weight * columns[name] for name, weight in self.coefficients.items() if name in columns)

    def network_ms(self, parts: Sequence[Mapping[str, float]], savings: Sequence[Mapping[str, float]] = ()) -> float:
        """The latency of a network of these operations, and of what is saved between them."""
        saved = sum(min(0.0, self.change_ms(columns)) for columns in savings)
        return self.bent_ms(self.intercept_ms + sum(self.part_ms(columns) for columns in parts) + saved)

    def bent_ms(self, sum_ms: float) -> float:
        """The latency of a network whose parts and intercept sum to this."""
        share = min(sum_ms / self.top_ms, 1.0)
        return sum_ms * (1 + sum(weight * share**power for power, weight in enumerate(self.bend)))

    def limit_ms(self, budget_ms: float) -> float:
        """What the parts of a network may sum to, the intercept left out, for a latency within the budget."""
        low, high = 0.0, 4 * budget_ms  # the curve takes at least a quarter of its sum
        for _ in range(50):
            between = (low + high) / 2
            low, high = (between, high) if self.bent_ms(between) <= budget_ms else (low, between)
        return low - self.intercept_ms


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """A measured network: the columns of its operations, summed, and its latency."""

    columns: Mapping[str, float]
    measured_ms: float


def total(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Columns summed over operations.

    >>> part = {"latency_ms": 1.0, "cold_ms": 0.5, "operations": 1, "macs": 9e6, "border": 2000, "activations": 3000}
    >>> total([part, part])["latency_ms"], total([part, part])["mixed_border"]
    (2.0, 0.0)
    """
    return {name: float(sum(columns.get(name, 0.0) for columns in parts)) for name in COLUMNS}


def plain_sum_ms(columns: Mapping[str, float]) -> float:
    """What parts are expected to take together where no network was measured."""
    return sum(expected * columns[name] for name, (expected, _) in COEFFICIENT_PRIORS.items())


def fit(measured_networks: Sequence[MeasuredNetwork]) -> Prediction:
    """The most probable correction given the measured networks (Bayesian linear regression with priors).

    With one network, the teacher, it is the plain sum plus what the teacher takes beyond its layers. Where the teacher
    takes less, the sum is scaled down.

    Raises:
        ValueError: nothing measured.
    """
    if not measured_networks:
        raise ValueError("Expected at least one measured network, the teacher; got none.")
    names = [name for name in COLUMNS if name != INT8_COLUMN or any(n.columns.get(name) for n in measured_networks)]
    features = np.array([[network.columns[name] for name in names] for network in measured_networks])
    measured = np.array([network.measured_ms for network in measured_networks])
    largest = dict(zip(names, features.max(0), strict=True))
    shares = {
        name: (0.0, share * measured.max() / (largest[name] or 1.0))
        for name, share in COLUMN_SHARES.items()
        if name in largest
    }
    prior = {**COEFFICIENT_PRIORS, **shares}
    means, deviations = (np.array([prior[name][index] for name in names]) for index in (0, 1))
    residual = measured - features @ means
    # A network counts by its expected error. The intercept is free (a very wide prior) but for its sign.
    weights = 1 / np.hypot(MEASUREMENT_ERROR_RATIO * measured, MODEL_ERROR_RATIO * measured.max())
    design = np.column_stack([np.ones(len(measured_networks)), features]) * weights[:, None]
    for wide in (1e3, 1e-6):
        penalty = np.diag([1 / (wide * float(measured.max())) ** 2, *(1 / deviations**2)])
        solved = np.linalg.solve(design.T @ design + penalty, design.T @ (residual * weights))
        if solved[0] >= 0:  # what no choice changes cannot take less than no time: else it is nothing
            break
    straight = Prediction(
        intercept_ms=max(0.0, float(solved[0])),
        coefficients={name: float(mean + change) for name, mean, change in zip(names, means, solved[1:], strict=True)},
    )
    sums = straight.intercept_ms + features @ np.array([straight.coefficients[name] for name in names])
    return _bent(straight, sums, measured, weights)


def _bent(straight: Prediction, sums: np.ndarray, measured: np.ndarray, weights: np.ndarray) -> Prediction:
    """With the most probable curve from sums to measured milliseconds; straight where that one would not increase."""
    top_ms = float(measured.max())
    shares = np.minimum(sums / top_ms, 1.0)
    design = np.stack([sums * shares**power for power in range(len(BEND_DEVIATIONS))], axis=1) * weights[:, None]
    penalty = np.diag([1 / deviation**2 for deviation in BEND_DEVIATIONS])
    solved = np.linalg.solve(design.T @ design + penalty, design.T @ ((measured - sums) * weights))
    bent = dataclasses.replace(straight, bend=tuple(map(float, solved)), top_ms=top_ms)
    grid = [bent.bent_ms(share * top_ms) for share in np.linspace(0, 1.2, 121)]
    increases = all(after - before > MIN_SLOPE * 0.01 * top_ms for before, after in itertools.pairwise(grid))
    return bent if increases else straight


@dataclass(frozen=True, kw_only=True)
class PredictionError:
    """How far predictions are from measurements on networks that were held out of the fit, as shares."""

    mean_absolute: float
    bias: float
    within_10_percent: float
    networks: int


def held_out_error(measured_networks: Sequence[MeasuredNetwork]) -> PredictionError | None:
    """Leave-one-out error over the measured networks; None with fewer than four."""
    if len(measured_networks) < 4:
        return None
    errors = []
    for index, network in enumerate(measured_networks):
        prediction = fit([*measured_networks[:index], *measured_networks[index + 1 :]])
        summed = prediction.intercept_ms + prediction.change_ms(network.columns)
        errors.append(prediction.bent_ms(summed) / network.measured_ms - 1)
    relative = np.array(errors)
    return PredictionError(
        mean_absolute=float(np.abs(relative).mean()),
        bias=float(relative.mean()),
        within_10_percent=float((np.abs(relative) <= 0.1).mean()),
        networks=len(measured_networks),
    )
