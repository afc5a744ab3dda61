"""Whole networks beside a reference, in fresh processes: the measurement that a budget is a promise about."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from profilers.computation import Computation
from profilers.errors import MeasurementFailed, ProfilerError
from profilers.isolation import Blame, run_job
from profilers.registry import create_runtime
from profilers.runtime import RuntimeSettings
from profilers.sweep import Progress

# One-sided 95% quantiles of Student's t distribution by degrees of freedom (any table of it); beyond, linearly in 1/n.
_T95 = {
    1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833, 10: 1.812,
    12: 1.782, 15: 1.753, 20: 1.725, 30: 1.697, 60: 1.671,
}  # fmt: skip
_NORMAL95 = 1.645


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One candidate beside the reference, one figure a process.

    Attributes:
        ratios: medians over rounds of the candidate's time over the reference's beside it.
        reference_ms: medians of the reference.
    """

    ratios: tuple[float, ...]
    reference_ms: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def ratio_upper95(self) -> float:
        return upper_bound_95(self.ratios)


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


def t_quantile_95(degrees: int) -> float:
    """From the table, between its entries linearly in 1 / degrees.

    >>> t_quantile_95(4), round(t_quantile_95(120), 3)
    (2.132, 1.658)
    """
    if degrees in _T95:
        return _T95[degrees]
    below = max(known for known in _T95 if known < degrees)
    above = min((known for known in _T95 if known > degrees), default=None)
    low, high = _T95[below], _NORMAL95 if above is None else _T95[above]
    end = 0.0 if above is None else 1 / above
    return high + (low - high) * (1 / degrees - end) / (1 / below - end)


def compare(
    reference: Computation,
    candidates: Sequence[Computation],
    *,
    runtime: str,
    settings: RuntimeSettings,
    processes: int = 5,
    seconds_per_process: float = 1.0,
    timeout_s: float = 300.0,
    progress: Callable[[Progress], None] | None = None,
) -> list[Comparison]:
    """Measure candidates beside a reference; each process is fresh and sees all of them in shuffled rounds.

    A process takes `seconds_per_process`, or seven rounds where they take longer. `timeout_s` is of one build or visit.

    Raises:
        RuntimeUnavailable: the runtime is not installed.
        MeasurementFailed: a network cannot be built, crashes or hangs; its name is in the message.
    """
    if processes < 1 or not seconds_per_process > 0:
        raise ProfilerError(f"processes={processes}, seconds_per_process={seconds_per_process}: expected more than 0.")
    create_runtime(runtime, settings)  # not installed? then say so before any process is started
    everything = [reference, *candidates]
    ratios: list[list[float]] = [[] for _ in candidates]
    reference_ms: list[float] = []
    started_s = time.monotonic()
    for process in range(processes):
        result = run_job(
            {"kind": "compare", "seconds": seconds_per_process, "seed": process},
            runtime=runtime,
            settings=settings,
            computations=everything,
            timeout_s=timeout_s,
        )
        if isinstance(result, Blame):
            raise _failed(everything[result.item], result.message)
        for index, message in result["errors"].items():
            raise _failed(everything[int(index)], message)
        for found, rounds in zip(ratios, result["ratios"], strict=True):
            found.append(statistics.median(rounds))
        reference_ms.append(statistics.median(result["reference_s"]) * 1e3)
        if progress is not None:
            done = process + 1
            left = (time.monotonic() - started_s) / done * (processes - done)
            progress(Progress(done=done, total=processes, name=f"process {done}", seconds_left=left))
    return [Comparison(ratios=tuple(found), reference_ms=tuple(reference_ms)) for found in ratios]


def _failed(computation: Computation, message: str) -> MeasurementFailed:
    return MeasurementFailed(f"{computation.name} cannot be measured: {message}")
