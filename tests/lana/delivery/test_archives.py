"""Archives run in a fresh folder here, or by ssh; what is offline is named."""

import subprocess
import sys
import zipfile

import pytest

from lana.delivery import archives
from lana.delivery.archives import archive_unit, run_archive
from lana.errors import UserError


def silent(share):
    pass


@pytest.fixture
def archive(tmp_path):
    """An archive whose run writes the folder it ran in."""

    def made(script="import os; open('table.csv', 'w').write(os.getcwd())", at="here"):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("run.py", script)
            packed.writestr("profilers/__init__.py", "")
            packed.writestr("profilers/worker.py", "def end_with_the_starter(): pass")
        return archive_unit(path, device="desk", at=at, python="python3", result="table.csv")

    return made


def test_a_unit_has_the_name_of_its_content(archive):
    unit = archive()
    assert unit.name.startswith("desk-table-")
    assert unit.device == ""
    assert archive(at="ray").device == "desk"


def test_an_archive_runs_in_a_folder_of_its_own(archive, tmp_path):
    assert str(tmp_path) not in run_archive(archive().content, silent)


def test_what_fails_says_why(archive):
    with pytest.raises(UserError, match=r"failed at here: no numpy"):
        run_archive(archive("import sys; sys.exit('no numpy')").content, silent)


def test_a_place_measures_one_thing_at_a_time(archive, tmp_path):
    script = f"""
import pathlib, time
mark = pathlib.Path({str(tmp_path)!r}) / "busy"
mark.touch(exist_ok=False)
time.sleep(0.3)
mark.unlink()
pathlib.Path("table.csv").write_text("alone")
"""
    from lana.engines.processes import ProcessEngine
    from lana.engines.units import map_units

    units = [archive(script + f"# {number}") for number in range(3)]
    engine = ProcessEngine(processes=3, start_method="fork")
    found = [text for _, text in map_units(engine, run_archive, units, tmp_path / "units", title="Measuring")]
    assert found == ["alone"] * 3


def test_a_device_that_does_not_answer_is_offline(archive, monkeypatch):
    script = "import sys; sys.stderr.write('ssh: connect to host board: timed out'); sys.exit(255)"
    start = subprocess.Popen
    monkeypatch.setattr(
        archives.subprocess, "Popen", lambda command, **how: start([sys.executable, "-c", script], **how)
    )
    with pytest.raises(UserError, match=r"board is offline \(ssh: connect to host board: timed out\)"):
        run_archive(archive(at="ssh:board").content, silent)


def test_a_device_over_ssh_gets_the_archive_and_its_result_comes_back(archive, monkeypatch):
    commands, start = [], subprocess.Popen

    def popen(command, **how):
        commands.append(command)
        if command[0] == "scp" and command[-1].endswith("table.csv"):
            return start([sys.executable, "-c", f"open({command[-1]!r}, 'w').write('rows')"], **how)
        return start([sys.executable, "-c", ""], **how)

    monkeypatch.setattr(archives.subprocess, "Popen", popen)
    assert run_archive(archive(at="ssh:board").content, silent) == "rows"
    assert [command[0] for command in commands] == ["ssh", "scp", "ssh", "scp", "ssh"]
    assert "python3 run.py" in commands[2][-1]
    assert commands[4][-1].startswith("rm -rf lana-")
