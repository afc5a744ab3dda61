"""The bound that decides whether a measured student is within its budget."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence


def upper_bound_95(ratios: Sequence[float]) -> float:
    """The one-sided 95% bound of the mean (Student's t), never below the median; infinite for a single value.

    >>> round(upper_bound_95([0.50, 0.51, 0.49, 0.50, 0.50]), 4)  # 0.5 + 2.132 · 0.00707 / √5
    0.5067
    """
    count = len(ratios)
    if count < 2:
        return math.inf
    bound = statistics.fmean(ratios) + t_quantile_95(count - 1) * statistics.stdev(ratios) / math.sqrt(count)
    return max(bound, statistics.median(ratios))


def interval_95(ratios: Sequence[float]) -> tuple[float, float]:
    """The two-sided 95% interval of the mean (Student's t); without bounds for a single value.

    >>> [round(bound, 4) for bound in interval_95([0.50, 0.51, 0.49, 0.50, 0.50])]  # 0.5 ± 2.776 · 0.00707 / √5
    [0.4912, 0.5088]
    """
    if len(ratios) < 2:
        return -math.inf, math.inf
    half = t_quantile(len(ratios) - 1, 0.975) * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return statistics.fmean(ratios) - half, statistics.fmean(ratios) + half


def t_quantile_95(degrees: int) -> float:
    """The one-sided 95% quantile of Student's t distribution.

    >>> round(t_quantile_95(4), 3), round(t_quantile_95(120), 3)
    (2.132, 1.658)
    """
    return t_quantile(degrees, 0.95)


@functools.cache
def t_quantile(degrees: int, share: float) -> float:
    from scipy.stats import t  # takes a second to import

    return float(t.ppf(share, degrees))
