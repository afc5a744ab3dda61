"""Two clocks: the plain one, and one that stops while another process has the processor."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]

UNBROKEN_S = 5e-5  # a reading that took longer lost its processor between one figure and the other
LONG_S = 1e-3  # shorter runs are seldom interrupted: their median is right by the plain clock, which costs nothing


@dataclass(frozen=True)
class Clocks:
    """The clock of a run depends on how long it is about to take; `working` may be missing."""

    plain: Clock = time.perf_counter
    working: Clock | None = None

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

    # What a reading itself takes is no part of a run; the least of many is never too much.
    stamps = [clock() for _ in range(100)]
    reading_s = min(after - before for before, after in itertools.pairwise(stamps))
    return clock
