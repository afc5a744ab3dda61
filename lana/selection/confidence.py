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


@functools.cache
def t_quantile_95(degrees: int) -> float:
    """The one-sided 95% quantile of Student's t distribution.

    >>> round(t_quantile_95(4), 3), round(t_quantile_95(120), 3)
    (2.132, 1.658)
    """
    from scipy.stats import t  # takes a second to import

    return float(t.ppf(0.95, degrees))
