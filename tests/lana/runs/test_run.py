import errno
import subprocess
import sys

import pytest

from lana.common.files import explain_disk, write_text
from lana.config.recipe import Recipe
from lana.errors import UserError
from lana.runs.run import Run

RECIPE = Recipe(model="digits-resnet", data="digits", budget="0.4x")


def test_a_second_process_is_refused(tmp_path):
    script = f"from lana.runs.run import Run; Run.open({str(tmp_path)!r}).__enter__()"
    with Run.open(tmp_path, RECIPE) as run:
        run.begin(RECIPE)
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "in use by another process" in other.stderr
    with Run.open(tmp_path) as run:
        assert run.recipe() == RECIPE


def test_another_recipe_is_refused_and_says_what_differs(tmp_path):
    with Run.open(tmp_path, RECIPE) as run, run.stage("profile", "a"):
        run.begin(RECIPE)
    with (
        pytest.raises(UserError, match=r"made by another recipe .*threads: 1 there, 2 now"),
        Run.open(tmp_path, RECIPE.replace(threads=2)),
    ):
        pass
    with Run.open(tmp_path, RECIPE.replace(budget="0.3x")):  # another student of the same pool
        pass


def test_a_run_is_gone_on_with_from_any_folder_and_moves_with_what_it_names(tmp_path, monkeypatch):
    mine = RECIPE.replace(model="net.py:mine", data="folder:images")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with Run.open("runs/mine", mine) as run, run.stage("profile", "a"):
        run.begin(mine)
        decided = run.parts(mine, "teacher")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").rename("moved")
    with Run.open("moved/runs/mine", mine.replace(model="moved/net.py:mine", data="folder:moved/images")) as run:
        assert run.recipe().teacher.model == "moved/net.py:mine"
        assert run.parts(run.recipe(), "teacher") == decided


@pytest.mark.parametrize("stage", [None, "teacher"])
def test_a_first_attempt_that_got_nowhere_takes_other_options(tmp_path, stage):
    with Run.open(tmp_path, RECIPE) as run:
        run.begin(RECIPE)
        if stage is not None:
            with run.stage(stage, "a"):
                pass
    mended = RECIPE.replace(weights="mine.safetensors")
    with Run.open(tmp_path, mended) as run:
        assert run.recipe() == RECIPE  # what the new one names is not found good yet
        run.begin(mended)
        assert run.recipe() == mended
        run.table.parent.mkdir()
        run.table.write_text("rows of these settings")
    with pytest.raises(UserError, match="made by another recipe"), Run.open(tmp_path, RECIPE.replace(threads=2)):
        pass


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty and not a run"), Run.open(tmp_path, RECIPE):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run"), Run.open(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()


def test_a_stage_counts_only_when_it_ended_well(tmp_path):
    with Run.open(tmp_path, RECIPE) as run:
        with pytest.raises(RuntimeError), run.stage("profile", "a"):
            raise RuntimeError("killed")
        assert not run.finished("profile", "a")
        with run.stage("profile", "a"):
            pass
        assert run.finished("profile", "a")
        assert not run.finished("profile", "b")
        assert run.seconds()["profile"] >= 0


def test_a_disk_that_is_full_later_is_said_too(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is full"), Run.open(tmp_path, RECIPE):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_place_that_is_no_folder_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"read or write .*file: File exists"), Run.open(tmp_path / "file", RECIPE):
        pass
    with (
        pytest.raises(UserError, match=r"read or write .*file/x: Not a dir"),
        Run.open(tmp_path / "file" / "x", RECIPE),
    ):
        pass
    with pytest.raises(UserError, match=r"read or write .*folder: Is a directory"), explain_disk():
        write_text(tmp_path / "folder", "x")
    with pytest.raises(BrokenPipeError), explain_disk():  # which click knows how to end
        raise BrokenPipeError


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp/x", ""])
def test_a_student_s_name_is_that_of_a_folder(tmp_path, name):
    with pytest.raises(UserError, match="expected the name of a folder"):
        Run(tmp_path).student(name)
    assert Run(tmp_path).student("0.5x") == tmp_path / "students" / "0.5x"


def test_a_student_is_no_run(tmp_path):
    folder = tmp_path / "run" / "students" / "0.5x"
    folder.mkdir(parents=True)
    for name in ("recipe.yaml", "architecture.json"):
        (folder / name).write_text("{}")
    with pytest.raises(UserError, match=f"is a student, not a run. Give its run: {tmp_path}/run"), Run.open(folder):
        pass


@pytest.mark.parametrize("name", ["", "..", "a/b", "n" * 300, "a\nb", "\0"])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="expected the name of a folder") as refused:
        Run(tmp_path).student(name)
    assert len(str(refused.value)) < 200 + len(str(tmp_path))
