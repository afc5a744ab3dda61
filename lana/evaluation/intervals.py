"""The interval of a difference of two networks' metrics: a bootstrap over images, paired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lana.evaluation.task import SetTask, Task

MOST_SAMPLES, LEAST_SAMPLES = 1000, 100
SET_EXAMPLES = 50_000  # that a figure of a whole set is computed of, in all samples together


def paired_interval(task: Task, ours: Sequence[Any], theirs: Sequence[Any], *, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of our metric less theirs, given the records of both on the same images.

    Images are drawn with replacement, the same for both: what makes an image hard for one does so for the other.

    Raises:
        ValueError: the records are of other numbers of images.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} records cannot be paired")
    count, random = len(ours), np.random.default_rng(seed)
    if isinstance(task, SetTask):
        samples = min(max(SET_EXAMPLES // count, LEAST_SAMPLES), MOST_SAMPLES)
        draws = (random.integers(count, size=count) for _ in range(samples))
        differences = [
            task.figure([ours[i] for i in drawn]) - task.figure([theirs[i] for i in drawn]) for drawn in draws
        ]
    else:
        each = np.array(ours, dtype=float) - np.array(theirs, dtype=float)
        each = each[~np.isnan(each)]  # examples without a figure
        count = len(each)
        differences = [each[random.integers(count, size=count)].mean() for _ in range(MOST_SAMPLES if count else 0)]
    numbers = [difference for difference in differences if not np.isnan(difference)]
    low, high = np.quantile(numbers, (0.025, 0.975)) if numbers else (np.nan, np.nan)
    return float(low), float(high)
