"""Students that are tuned at once end with the weights of those tuned one after the other."""

import json
import shutil
import subprocess
import sys

import pytest

from lana import pipeline
from lana.config.recipe import Recipe
from lana.errors import UserError

pytestmark = [pytest.mark.serial, pytest.mark.slow, pytest.mark.timeout(1200)]

OPTIONS = {
    "model": "digits-resnet",
    "data": "digits",
    "layers": "blocks.*",
    "pool": "linear_k1",
    "max_span": 1,
    "proposals": 1,
    "refine": 0,
    "calibrate": 0,
    "distill_epochs": 1,
    "distill_images": 64,
    "score_images": 64,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two students that are selected, not measured and not tuned."""
    folder = tmp_path_factory.mktemp("students") / "run"
    pipeline.compress(Recipe(budget="0.9x", epochs=0, **OPTIONS), out=folder, keep_over_budget=True, quiet=True)
    for name in ("0.7x", "0.5x"):
        pipeline.select(folder, name, name=name, verify=False, quiet=True)
    return folder


def tuned(run, folder, **engine):
    shutil.copytree(run, folder)
    students = [folder / "students" / name for name in ("0.7x", "0.5x")]
    pipeline.finetune_together(students, epochs=3, keep_over_budget=True, quiet=True, **engine)
    return [(student / "model.safetensors").read_bytes() for student in students]


def test_two_processes_end_with_the_weights_of_one(run, tmp_path):
    before = [(run / "students" / name / "model.safetensors").read_bytes() for name in ("0.7x", "0.5x")]
    alone = tuned(run, tmp_path / "alone", engine="local")
    assert alone != before
    assert tuned(run, tmp_path / "two", engine="processes", workers=2) == alone


def test_torchrun_starts_the_command_in_several_processes(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    student = tmp_path / "run" / "students" / "0.7x"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lana", "finetune"]
    options = ["--epochs", "3", "--finetune-batch", "64", "--keep-over-budget", "--replace-better", "--json"]
    done = subprocess.run([sys.executable, *launch, student, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["student"] == "0.7x"
    assert json.loads((student / "finetuned.json").read_text())["settings"]["epochs"] == 3
    before = (run / "students" / "0.7x" / "model.safetensors").read_bytes()
    assert (student / "model.safetensors").read_bytes() != before


def test_students_of_two_runs_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    with pytest.raises(UserError, match="several runs"):
        pipeline.finetune_together([run / "students" / "0.7x", tmp_path / "other" / "students" / "0.5x"], epochs=1)
