"""Whole networks beside a reference, in fresh processes: the measurement that a budget is a promise about."""

from __future__ import annotations

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

TIMEOUT_S = 300.0


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


def compare(
    reference: Computation,
    candidates: Sequence[Computation],
    *,
    runtime: str,
    settings: RuntimeSettings,
    processes: int = 5,
    seconds_per_process: float = 1.0,
    progress: Callable[[Progress], None] | None = None,
) -> list[Comparison]:
    """Measure candidates beside a reference; each process is fresh and sees all of them in shuffled rounds.

    A process takes `seconds_per_process`, or seven rounds where they take longer. One build or visit may take
    `TIMEOUT_S`.

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
            timeout_s=TIMEOUT_S,
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
