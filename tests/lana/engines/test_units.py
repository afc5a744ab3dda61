"""Units by name: each done once, errors as data, workers lost and hanging ones tried again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lana.engines.choice import create_engine, makespan, worker_count
from lana.engines.local import LocalEngine
from lana.engines.processes import ProcessEngine
from lana.engines.units import ATTEMPTS, Unit, map_units
from lana.errors import LanaError, UserError

UNITS = [Unit(name=f"unit-{number}", content=number, seconds=1.0) for number in range(4)]


def square(number, report):
    report(0.5)
    return number * number


def inverse(number, report):
    return 1 / number


def refuse(number, report):
    raise UserError("Give another number.")


def lose_memory(number, report):
    raise MemoryError("no memory")


class Marked:
    """Notes each attempt in a folder, so that processes may count them."""

    def __init__(self, folder, fault):
        self.folder, self.fault = folder, fault

    def __call__(self, number, report):
        attempts = len(list(self.folder.glob(f"{number}-*"))) + 1
        (self.folder / f"{number}-{attempts}").touch()
        if number == 2:
            self.fault(attempts)
        return number


def killed_once(attempts):
    if attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def always_killed(attempts):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs_once(attempts):
    time.sleep(60 if attempts == 1 else 0)


def values(engine, work, folder, units=UNITS, **options):
    return {unit.name: value for unit, value in map_units(engine, work, units, folder, title="Squares", **options)}


def test_every_unit_has_its_value_and_nothing_is_left_of_the_finished(tmp_path):
    assert values(LocalEngine(), square, tmp_path / "units") == {f"unit-{n}": n * n for n in range(4)}
    assert not (tmp_path / "units").exists()


def test_a_unit_that_is_done_is_never_done_again(tmp_path):
    with pytest.raises(LanaError, match=r"1 unit of 4 failed.*\nunit-0: ZeroDivisionError") as failure:
        values(LocalEngine(), inverse, tmp_path)
    assert "Finished units are kept" in str(failure.value)
    assert sorted(path.name for path in tmp_path.glob("*.done")) == ["unit-1.done", "unit-2.done", "unit-3.done"]
    assert json.loads((tmp_path / "unit-0.failed").read_text())["attempts"] == 1
    begun = []
    found = values(LocalEngine(), lambda number, report: begun.append(number) or 7.0, tmp_path)
    assert begun == [0]
    assert found == {"unit-0": 7.0, "unit-1": 1.0, "unit-2": 0.5, "unit-3": 1 / 3}


def test_an_error_for_the_user_stays_one(tmp_path):
    with pytest.raises(UserError, match="Give another number"):
        values(LocalEngine(), refuse, tmp_path)


def test_out_of_memory_is_tried_again(tmp_path):
    with pytest.raises(LanaError, match=rf"MemoryError: no memory \({ATTEMPTS} attempts"):
        values(LocalEngine(), lose_memory, tmp_path, UNITS[:1])


def test_a_worker_killed_costs_an_attempt(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    found = values(ProcessEngine(processes=2), Marked(marks, killed_once), tmp_path / "units")
    assert found == {f"unit-{n}": n for n in range(4)}
    assert sorted(path.name for path in marks.iterdir()) == ["0-1", "1-1", "2-1", "2-2", "3-1"]


def test_a_unit_that_kills_every_worker_is_named_and_the_others_are_kept(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(LanaError, match=r"unit-2: Its process ended with exit code -9.*3 attempts"):
        values(ProcessEngine(processes=2), Marked(marks, always_killed), tmp_path / "units")
    assert len(list((tmp_path / "units").glob("*.done"))) == 3
    assert len(list(marks.glob("2-*"))) == ATTEMPTS


def test_a_unit_without_progress_is_stopped_and_tried_again(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    found = values(ProcessEngine(processes=2), Marked(marks, hangs_once), tmp_path / "units", stalled_s=1.0)
    assert found == {f"unit-{n}": n for n in range(4)}
    assert len(list(marks.glob("2-*"))) == 2


def test_an_unknown_engine_is_a_mistake():
    with pytest.raises(UserError, match=r"--engine 'slurm': expected auto, local"):
        create_engine("slurm", UNITS)


def test_auto_starts_processes_where_it_is_worth_it():
    assert worker_count("auto", [1.0] * 8, None, "cpu") == 1
    assert worker_count("auto", [100.0] * 8, 2, "cpu") == 2
    assert worker_count("processes", [1.0] * 3, 8, "cpu") == 3
    assert isinstance(create_engine("auto", UNITS, workers=2), LocalEngine)


def test_the_time_of_workers_is_that_of_the_busiest():
    assert makespan([4.0, 3.0, 3.0], 1) == 10.0
    assert makespan([4.0, 3.0, 3.0], 2) - makespan([4.0, 3.0, 3.0], 3) == 2.0


STARTER = """
import sys, time, pathlib, os
from lana.engines.processes import ProcessEngine
folder = pathlib.Path(sys.argv[1])

def work(number):
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(60)

list(ProcessEngine(processes=2, start_method="fork").map(work, range(4)))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_end_of_the_starter_ends_all_workers(tmp_path, how):
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stderr=subprocess.DEVNULL, start_new_session=True
    ) as starter:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        starter.send_signal(how)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    wait_until(lambda: not any(is_alive(pid) for pid in workers))
    assert len(workers) == 2


def wait_until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("It never came to hold.")


def is_alive(pid):
    """True if a process runs: one that ended and was not asked for yet does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
