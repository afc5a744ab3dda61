"""Which measured students keep a budget, and how much is kept below it."""

from __future__ import annotations

import numpy as np

from lana.selection.measurement_log import MeasuredLatency, repeatability
from lana.selection.program import SelectionModel

MIN_BUDGET_MARGIN = 0.01  # a ratio: how far two measurements of one file lie apart on a quiet machine
MIN_REPEATED_MEASUREMENTS = 4  # from which on it is known how far they lie apart on this machine


def budget_margin(model: SelectionModel) -> float:
    """The ratio kept below a budget: the median difference between two measurements of one selection.

    It is at least `MIN_BUDGET_MARGIN`.
    """
    differences = repeatability(model.latencies)
    if len(differences) < MIN_REPEATED_MEASUREMENTS:
        return MIN_BUDGET_MARGIN
    return max(MIN_BUDGET_MARGIN, float(np.median(differences)))


def target_ms(model: SelectionModel, budget_ms: float) -> float:
    """The predicted latency that a search aims at."""
    return budget_ms * (1 - MIN_BUDGET_MARGIN - budget_margin(model))


def limit_ratio(model: SelectionModel, budget_ms: float) -> float:
    """The budget less the margin, as a ratio to the teacher's latency."""
    return budget_ms * (1 - budget_margin(model)) / model.teacher_ms


def within(model: SelectionModel, budget_ms: float) -> list[MeasuredLatency]:
    """Measured selections whose median lies within the budget, least loss first."""
    limit = limit_ratio(model, budget_ms)
    fast = [one for one in model.measured.values() if one.ratio <= limit and model.allows(one.selection)]
    return sorted(fast, key=lambda one: model.known_loss(one.selection, budget_ms))


def accepted(model: SelectionModel, budget_ms: float) -> list[MeasuredLatency]:
    """Measured selections whose upper 95% bound lies within the budget, less the margin; least loss first."""
    limit = limit_ratio(model, budget_ms)
    return [one for one in within(model, budget_ms) if one.ratio_upper95 <= limit]
