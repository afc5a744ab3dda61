"""Whole networks beside a reference, side by side in fresh processes: how a budget is checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import mean, median, stdev

from .computation import Computation
from .errors import MeasurementFailed
from .isolation import run_worker
from .runtime import RuntimeSettings
from .timing import Protocol

# The 95% quantile of Student's t by degrees of freedom; beyond the table the normal's 1.645 is close enough.
_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)


def upper_bound_95(values: Sequence[float]) -> float:
    """The one-sided 95% bound of the mean, never below the median; infinite with fewer than two values.

    >>> round(upper_bound_95([0.98, 1.0, 1.02]), 4)  # 1 + 2.92 * 0.02 / sqrt(3)
    1.0337
    """
    if len(values) < 2:
        return float("inf")
    quantile = _T95[len(values) - 2] if len(values) - 2 < len(_T95) else 1.7
    return max(median(values), mean(values) + quantile * stdev(values) / sqrt(len(values)))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One candidate against the reference.

    Attributes:
        ratios: one a process: the median over rounds of candidate time over reference time in the same round.
        reference_ms: one a process: the reference's median there.
    """

    key: str
    ratios: tuple[float, ...]
    reference_ms: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def ratio_upper95(self) -> float:
        return upper_bound_95(self.ratios)


def compare(
    reference: Computation,
    candidates: Sequence[Computation],
    *,
    runtime: str,
    settings: RuntimeSettings,
    processes: int = 5,
    seconds_per_process: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Comparison]:
    """Every candidate beside the reference, in `processes` fresh processes.

    Raises:
        MeasurementFailed: a computation cannot be built or run; it is named.
    """
    protocol = Protocol(least_rounds=15, most_rounds=2000, narrow=0.0, seconds=seconds_per_process, visit_s=0.002)
    ratios: list[list[float]] = [[] for _ in candidates]
    reference_ms = []
    everything = [reference, *candidates]
    for process in range(processes):
        outcome = run_worker(
            everything, runtime=runtime, settings=settings, protocol=replace(protocol, seed=1000 * seed + process)
        )
        for index, error in outcome.errors.items():
            raise MeasurementFailed(f"{everything[index].name} cannot be measured on {runtime}: {error}")
        base = outcome.seconds[0]
        reference_ms.append(median(base) * 1e3)
        for index in range(len(candidates)):
            paired = zip(outcome.seconds[index + 1], base, strict=True)
            ratios[index].append(median(ours / theirs for ours, theirs in paired))
        progress(process + 1)
    return [
        Comparison(key=candidate.key, ratios=tuple(values), reference_ms=tuple(reference_ms))
        for candidate, values in zip(candidates, ratios, strict=True)
    ]
