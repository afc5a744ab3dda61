"""The clock that stands still while another process has the processor, on a real processor that two want."""

import itertools
import os
import subprocess
import sys
import time

import pytest

from profilers.clock import LONG_S, working_clock

pytestmark = pytest.mark.serial  # a busy process on a processor that others would be measured on
UNTOLD = "DID NOT RUN: the system does not tell how long a thread waits for a processor"


@pytest.fixture
def shared_processor():
    """This thread and a busy process on one processor."""
    if not hasattr(os, "sched_setaffinity") or not os.path.exists("/proc/thread-self/schedstat"):
        pytest.skip(UNTOLD)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    busy.stdout.readline()
    yield
    busy.kill()
    busy.wait()
    busy.stdout.close()
    os.sched_setaffinity(0, before)


def test_it_counts_what_the_thread_worked(shared_processor):
    clock = working_clock()
    began_s, plain_s, worked_s = clock(), time.perf_counter(), time.thread_time()
    while time.thread_time() - worked_s < 0.3:
        pass
    found_s, plain_s, worked_s = clock() - began_s, time.perf_counter() - plain_s, time.thread_time() - worked_s
    assert found_s == pytest.approx(worked_s, rel=0.02)
    assert plain_s > 1.3 * found_s


def test_a_processor_lost_while_reading_is_no_step_back(shared_processor):
    clock = working_clock()
    stamps, worked_s = [clock()], time.thread_time()
    while time.thread_time() - worked_s < 0.3:
        stamps.append(clock())
    between = [after - before for before, after in itertools.pairwise(stamps)]
    assert min(between) > -LONG_S / 2


def test_sleeping_is_no_waiting(shared_processor):
    clock = working_clock()
    began_s = clock()
    time.sleep(0.1)
    assert clock() - began_s > 0.09  # a run that sleeps is that slow


def test_a_reading_takes_nothing_of_a_run():
    clock = working_clock()
    if clock is None:
        pytest.skip(UNTOLD)
    began_s = time.perf_counter()
    between = sorted(after - before for before, after in ((clock(), clock()) for _ in range(1000)))
    reading_s = (time.perf_counter() - began_s) / 2000
    assert abs(between[500]) < 0.5 * reading_s
