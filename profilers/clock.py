"""Two clocks: the plain one, and one that stops while another process has the processor."""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]

UNBROKEN_S = 5e-5  # a reading that took longer lost its processor between one figure and the other
LONG_S = 1e-3  # shorter runs are seldom interrupted: their median is right by the plain clock, which costs nothing


@dataclass(frozen=True)
class Switches:
    """Counts how often the processor was taken away so far; asking takes `cost_s`."""

    count: Callable[[], int]
    cost_s: float = 0.0


@dataclass(frozen=True)
class Clocks:
    """The clock of a run depends on how long it is about to take; `working` and `switches` may be missing."""

    plain: Clock = time.perf_counter
    working: Clock | None = None
    switches: Switches | None = None

    def get(self, run_s: float) -> Clock:
        """The clock for a run of about these seconds; infinite where the time is not known yet.

        >>> clocks = Clocks(plain=lambda: 1.0, working=lambda: 2.0)
        >>> clocks.get(5e-6)(), clocks.get(5e-3)(), clocks.get(math.inf)(), Clocks(plain=lambda: 1.0).get(5e-3)()
        (1.0, 2.0, 1.0, 1.0)
        """
        return self.working if self.working is not None and LONG_S <= run_s < math.inf else self.plain


def working_clock() -> Clock | None:
    """Seconds, less those in which the calling thread was ready to run and another process had its processor.

    Where several want one processor, the system takes it from each every few milliseconds. A network of 5 ms then
    loses it in every run, one of 1 ms in few, of which the median knows nothing: their ratio comes out half as large.
    Linux counts what a thread waited ("time spent waiting on a runqueue", Documentation/scheduler/sched-stats.rst);
    None where a system does not. It counts the calling thread alone, so it suits runs that compute in that thread.
    """
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        return None
    reading_s, readings = 0.0, 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        for _ in range(10):
            now_s = time.perf_counter()
            waited_ns = int(os.pread(file, 64, 0).split()[1])
            if time.perf_counter() - now_s < UNBROKEN_S:
                break
        return now_s - waited_ns * 1e-9 - readings * reading_s

    # The time of a reading is no part of a run; the least of many is never too large.
    stamps = [clock() for _ in range(100)]
    reading_s = min(after - before for before, after in itertools.pairwise(stamps))
    return clock


def switch_counter(*, of_thread: bool) -> Switches | None:
    """Involuntary context switches of the calling thread, or of the whole process; None outside Linux."""
    if sys.platform != "linux":
        return None
    import resource

    get, who = resource.getrusage, resource.RUSAGE_THREAD if of_thread else resource.RUSAGE_SELF

    def count() -> int:
        return get(who).ru_nivcsw

    # As with the working clock: the least of many is never too much.
    stamps = []
    for _ in range(100):
        count()
        stamps.append(time.perf_counter())
    return Switches(count, min(after - before for before, after in itertools.pairwise(stamps)))


def waited_s() -> float:
    """Seconds that the calling thread was ready and had no processor; outside Linux also those in which it slept."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) * 1e-9
    except OSError:
        return time.perf_counter() - time.thread_time()
