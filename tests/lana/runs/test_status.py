import json
import os
import time

import pytest
from click.testing import CliRunner

from lana.cli import main
from lana.engines.units import Unit, map_units
from lana.errors import LanaError, UserError
from lana.runs.status import run_status

UNITS = [Unit(name=f"unit-{number}", content=number, seconds=10.0) for number in range(4)]


@pytest.fixture
def run(tmp_path):
    """A run in the middle of distilling: unit 0 is done, unit 2 failed."""
    (tmp_path / "recipe.yaml").write_text("model: digits-resnet\n")
    (tmp_path / "stages.json").write_text(json.dumps({"profile": {"fingerprint": "", "seconds": 75}}))

    class Interrupted(Exception):
        pass

    def work(number, report):
        if number == 2:
            raise ValueError("broken")
        return number

    class Engine:
        def map(self, function, units, watch):
            from lana.engines.base import attempt

            yield attempt(function, 0, units[0])
            yield attempt(function, 2, units[2])
            raise Interrupted

    with pytest.raises(Interrupted):
        list(map_units(Engine(), work, UNITS, tmp_path / "units" / "distill", title="Distilling"))
    return tmp_path


def is_running(run, unit, share, age_s=0.0):
    path = run / "units" / "distill" / f"{unit}.running"
    path.write_text(json.dumps({"host": "board", "process": 1, "share": share, "seconds": 1.0}))
    os.utime(path, (time.time() - age_s,) * 2)


def test_what_is_done_running_failed_and_waiting(run):
    is_running(run, "unit-1", 0.5)
    found = run_status(run)
    stage = found.stages[0]
    assert found.finished == {"profile": 75}
    assert (stage.units, stage.done, stage.running, stage.hosts) == (4, 1, {"unit-1": 0.5}, {"board": 1})
    assert stage.failed == {"unit-2": "ValueError: broken"}


def test_the_time_left_is_that_of_open_units_at_the_pace_of_the_finished(run):
    is_running(run, "unit-1", 0.5)
    record = run / "units" / "distill" / "unit-0.done"
    record.write_text(json.dumps({**json.loads(record.read_text()), "seconds": 20.0}))  # twice the estimate
    assert run_status(run).stages[0].seconds_left == 2 * 10.0 * 0.5 + 2 * 10.0  # half of unit 1, all of unit 3


def test_a_unit_that_is_silent_does_not_run(run):
    is_running(run, "unit-1", 0.5, age_s=3600)
    assert run_status(run).stages[0].running == {}


def test_the_command_shows_it(run):
    is_running(run, "unit-1", 0.5)
    shown = CliRunner().invoke(main, ["status", str(run)])
    assert shown.exit_code == 0
    assert all(text in shown.output for text in ("board: 1", "unit-2: failed: ValueError: broken", "unit-1: running"))


def test_another_folder_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        run_status(tmp_path)
    assert issubclass(UserError, LanaError)
