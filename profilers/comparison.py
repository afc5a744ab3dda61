"""Whole networks beside a reference, in fresh processes: the measurement that a budget is a promise about."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profilers.computation import Computation
from profilers.errors import MeasurementFailed, ProfilerError
from profilers.isolation import Blame, run_job
from profilers.registry import create_runtime
from profilers.runtime import RuntimeSettings
from profilers.sweep import Progress

REPEATED = 2  # times as many processes at most, where some are disturbed
TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One candidate beside the reference, one figure a process.

    Attributes:
        ratios: medians over rounds of the candidate's time over the reference's beside it.
        reference_ms: medians of the reference.
        calm: whether they are of rounds in which no other process took the processor; empty where it is not known.
        waited: the share of its time in which the process waited for a processor; empty where it is not known.
        watched: how disturbances were noticed: by context "switches", or by the scatter of fixed "kernels".
    """

    ratios: tuple[float, ...]
    reference_ms: tuple[float, ...]
    calm: tuple[bool, ...] = ()
    waited: tuple[float, ...] = ()
    watched: str = ""

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def calm_reference_ms(self) -> tuple[float, ...]:
        """The figures of the calm processes; of all where there is none."""
        return tuple(itertools.compress(self.reference_ms, self.calm)) or self.reference_ms


@dataclass(frozen=True, kw_only=True)
class ProcessFound:
    """The figures of one process: of each candidate, and its own."""

    ratios: tuple[float, ...]
    calm: tuple[bool, ...]
    reference_ms: float
    waited: float
    watched: str


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

    A process takes `seconds_per_process`, or seven rounds where they take longer. One that other processes disturbed is
    repeated, up to twice as many in all. One build or visit may take `TIMEOUT_S`.

    Raises:
        RuntimeUnavailable: the runtime is not installed.
        MeasurementFailed: a network cannot be built, crashes or hangs; its name is in the message.
    """
    if processes < 1 or not seconds_per_process > 0:
        raise ProfilerError(f"processes={processes}, seconds_per_process={seconds_per_process}: expected more than 0.")
    create_runtime(runtime, settings)  # not installed? then say so before any process is started
    everything = [reference, *candidates]
    done: list[ProcessFound] = []
    started_s = time.monotonic()
    while goes_on(done, processes):
        job = {"kind": "compare", "seconds": seconds_per_process, "seed": len(done)}
        result = _measured(job, runtime, settings, everything)
        done.append(_found(result, everything))
        if progress is not None:
            total = max(processes, len(done) + goes_on(done, processes))
            left = (time.monotonic() - started_s) / len(done) * (total - len(done))
            progress(Progress(done=len(done), total=total, name=f"process {len(done)}", seconds_left=left))
    return [compared(done, index, processes) for index in range(len(candidates))]


def _measured(
    job: Mapping[str, Any], runtime: str, settings: RuntimeSettings, computations: Sequence[Computation]
) -> dict[str, Any] | Blame:
    """The result of one process; one that was killed is tried once more, for the memory may be free again."""
    result = run_job(job, runtime=runtime, settings=settings, computations=computations, timeout_s=TIMEOUT_S)
    if isinstance(result, Blame) and result.killed:
        result = run_job(job, runtime=runtime, settings=settings, computations=computations, timeout_s=TIMEOUT_S)
    return result


def _found(result: Mapping[str, Any] | Blame, everything: Sequence[Computation]) -> ProcessFound:
    if isinstance(result, Blame):
        raise _failed(everything[result.item], result.message)
    for index, message in result["errors"].items():
        raise _failed(everything[int(index)], message)
    return ProcessFound(
        ratios=tuple(statistics.median(rounds) for rounds in result["ratios"]),
        calm=tuple(result["calm"]),
        reference_ms=statistics.median(result["reference_s"]) * 1e3,
        waited=round(result["waited"], 4),
        watched=result["watched"],
    )


def goes_on(done: Sequence[ProcessFound], processes: int) -> bool:
    """True if another process is wanted: those that were disturbed are repeated, up to twice as many in all.

    Where none was calm, one more shows whether calm comes.
    """
    if len(done) < processes:
        return True
    calm = [sum(flags) for flags in zip(*(one.calm for one in done), strict=True)]
    if min(calm, default=processes) >= processes:
        return False
    return len(done) < (REPEATED * processes if any(calm) else processes + 1)


def compared(done: Sequence[ProcessFound], index: int, processes: int) -> Comparison:
    """So many processes of one candidate: the calm ones, and as many of the others as lack."""
    order = sorted(range(len(done)), key=lambda process: not done[process].calm[index])[:processes]
    taken = [done[process] for process in sorted(order)]
    return Comparison(
        ratios=tuple(one.ratios[index] for one in taken),
        reference_ms=tuple(one.reference_ms for one in taken),
        calm=tuple(one.calm[index] for one in taken),
        waited=tuple(one.waited for one in taken),
        watched=taken[0].watched,
    )


def _failed(computation: Computation, message: str) -> MeasurementFailed:
    return MeasurementFailed(f"{computation.name} cannot be measured: {message}")
