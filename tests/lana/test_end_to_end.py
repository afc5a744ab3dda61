"""The whole pipeline on the bundled example: within the budget, resumable after any kill, reusable."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lana.cli import main
from lana.config.recipe import Recipe
from lana.models.student_files import load_student

pytestmark = pytest.mark.serial

SMALL = {
    "model": "digits-resnet",
    "data": "digits",
    "budget": "0.5x",
    "pool": "linear_k1,linear_k3,pruned_w0.5,pruned_w0.25,cb_res_k3_w0.25",
    "layers": "blocks.*",
    "max_span": 1,
    "distill_epochs": 1.0,
    "distill_images": 256,
    "score_images": 200,
    "refine": 6,
    "calibrate": 8,
    "epochs": 2.0,
    "proposals": 2,
}
POLL_S = 0.05


def write_recipe(folder, **changes):
    path = folder / "recipe.yaml"
    path.write_text(Recipe(**{**SMALL, **changes}).to_yaml())
    return path


def lana(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and what it printed."""
    folder = tmp_path_factory.mktemp("end-to-end")
    result = lana("compress", "--recipe", write_recipe(folder), "--out", folder / "run", "--quiet")
    assert result.exit_code == 0, result.output
    return folder / "run", result.output


def summary_of(run, name="0.5x"):
    return json.loads((run / "students" / name / "summary.json").read_text())


def test_the_student_is_within_its_budget_and_good(finished):
    run, output = finished
    summary = summary_of(run)
    assert summary["verified"]
    assert summary["measured_ms_upper95"] <= summary["budget_ms"]
    assert summary["speedup"] > 1.8
    assert summary["student_accuracy"] > summary["teacher_accuracy"] - 0.03
    assert summary["onnx_max_relative_error"] < 1e-4
    assert set(summary["selection"]) == {f"blocks.{i}" for i in range(15)}
    assert {"teacher", "profile", "distill", "score", "select", "finetune", "deliver"} <= set(summary["seconds"])
    assert "teacher" in output
    assert "0.5x" in output


def test_a_student_that_was_not_verified_is_verified_later(finished):
    run, _ = finished
    path, before = run / "students" / "0.5x" / "summary.json", summary_of(run)
    path.write_text(json.dumps({**before, "verified": False, "reason": "other work", "measured_ms": None}))
    result = lana("verify", run / "students" / "0.5x", "--quiet")
    after = summary_of(run)
    assert after["reason"] is None, result.output
    assert after["verified"]
    assert after["measuring"]["calm"] >= 5
    assert result.exit_code == 0
    assert after["student_accuracy"] == before["student_accuracy"]


def test_the_student_loads_and_agrees_with_its_onnx_file(finished, digits_data):
    import onnxruntime

    folder = finished[0] / "students" / "0.5x"
    student = load_student(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    inputs, _ = next(digits_data.test.batches(1))
    with torch.no_grad():
        expected = student(inputs)
    found = torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_same_command_again_does_nothing(finished, tmp_path):
    run, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    result = lana("compress", "--recipe", write_recipe(tmp_path), "--out", run, "--quiet")
    assert result.exit_code == 0, result.output
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_another_budget_from_the_same_pool(finished):
    run, _ = finished
    stages = (run / "stages.json").read_text()
    result = lana("select", run, "--budget", "0.7x", "--no-verify", "--quiet")
    assert result.exit_code == 0, result.output
    summary = summary_of(run, "0.7x")
    assert not summary["verified"]
    assert summary["measured_ms"] is None
    assert summary["predicted_ms"] <= summary["budget_ms"]
    assert (run / "stages.json").read_text() == stages


def test_a_budget_that_the_teacher_meets_changes_nothing(finished):
    run, _ = finished
    before = sorted(run.rglob("*"))
    result = lana("select", run, "--budget", "1.2x", "--quiet")
    assert result.exit_code == 0, result.output
    assert "nothing was changed" in result.output
    assert sorted(run.rglob("*")) == before


def test_the_teacher_s_figures_are_told_before_the_work(finished, tmp_path):
    result = lana("compress", "--recipe", write_recipe(tmp_path, budget="1.2x"), "--out", finished[0])
    assert result.exit_code == 0, result.output
    teacher = json.loads((finished[0] / "pool" / "teacher.json").read_text())
    assert f"Teacher: accuracy {teacher['metric']:.2%} on 359 test examples" in result.stderr


def test_a_budget_below_the_fastest_reachable_names_it(finished):
    run, _ = finished
    result = lana("select", run, "--budget", "0.01x", "--quiet")
    assert result.exit_code == 2
    assert "fastest reachable student needs" in result.output


def test_a_student_is_evaluated_measured_and_reported(finished):
    run, _ = finished
    student = run / "students" / "0.5x"
    evaluated = json.loads(lana("evaluate", student, "--data", "digits", "--json").output)
    assert evaluated["metric"] == pytest.approx(summary_of(run)["student_accuracy"])
    measured = json.loads(lana("measure", student, "--processes", "2", "--json").output)
    assert measured["latency_ms"] > 0
    assert "0.5x" in lana("report", run).output
    card = (student / "README.md").read_text()
    assert f"{summary_of(run)['student_accuracy']:.2%}" in card
    assert "within its budget" in card


@pytest.mark.slow
def test_a_student_is_fine_tuned_by_two_processes(finished):
    pytest.importorskip("accelerate", reason="DID NOT RUN: Accelerate is not installed")
    run, _ = finished
    assert lana("select", run, "--budget", "0.6x", "--name", "two", "--no-verify", "--quiet").exit_code == 0
    student = run / "students" / "two"
    result = lana("finetune", student, "--epochs", 2, "--processes", 2, "--quiet")
    assert result.exit_code == 0, result.output
    curve = (student / "training.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curve] == ["epoch", "0", "1", "2"]
    assert float(curve[-1].split(",")[2]) >= float(curve[1].split(",")[2]) - 0.02
    assert summary_of(run, "two")["seconds"]["finetune"] > 0
    assert not (student / "training.pt").exists()


@pytest.mark.gpu
def test_what_is_trained_on_a_gpu_is_as_good(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("DID NOT RUN: there is no CUDA device")
    path = write_recipe(tmp_path, device="cuda")
    result = lana("compress", "--recipe", path, "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 0, result.output
    summary = summary_of(tmp_path / "run")
    assert summary["student_accuracy"] > summary["teacher_accuracy"] - 0.03


def pool_digest(run):
    """What the selection is a function of, the measurements aside."""
    digest = hashlib.sha256((run / "pool" / "scores.csv").read_bytes())
    for path in sorted((run / "pool" / "operations").rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def same_threads():
    """Sums are taken in another order with another number of threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def kill_when(appears, command):
    """Start the command and kill it outright as soon as the file appears; true where it was in time."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=same_threads()
    )
    while process.poll() is None and not appears():
        time.sleep(POLL_S)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return killed


@pytest.mark.slow
def test_killed_at_any_stage_the_same_command_ends_the_same(finished, tmp_path):
    whole, run = finished[0], tmp_path / "run"
    # The table and the log of measurements are what a selection may depend on: both runs get the same.
    (run / "pool").mkdir(parents=True)
    for name in ("recipe.yaml", "stages.json"):
        shutil.copy(whole / name, run / name)
    for name in ("table.csv", "candidates.csv", "layers.json", "teacher.json", "measured_students.csv"):
        shutil.copy(whole / "pool" / name, run / "pool" / name)
    stages = json.loads((whole / "stages.json").read_text())
    (run / "stages.json").write_text(json.dumps({name: stages[name] for name in ("teacher", "profile")}))
    command = [sys.executable, "-m", "lana.cli", "compress", "--recipe", str(write_recipe(tmp_path)), "--out", str(run)]
    student = run / "students" / "0.5x"
    moments = [
        lambda: any((run / "pool" / "operations").rglob("*.safetensors")),
        lambda: (run / "pool" / "scores.csv").is_file(),
        lambda: (student / "model.safetensors").is_file(),
        lambda: (student / "training.pt").is_file(),
        lambda: (student / "model.onnx").is_file(),
    ]
    killed = [kill_when(moment, command) for moment in moments]
    assert any(killed)
    assert subprocess.run(command, check=False, capture_output=True, env=same_threads()).returncode == 0
    assert pool_digest(run) == pool_digest(whole)
    assert summary_of(run)["selection"] == summary_of(whole)["selection"]
    assert not list(run.rglob(".writing-*")), "a killed write was left behind"


@pytest.mark.slow
def test_a_user_s_own_network_and_images(tmp_path):
    """`file.py:function` with a state dict and a folder of images, as a new user would have them."""
    prepare = Path(__file__).parent / "own_network.py"
    subprocess.run([sys.executable, str(prepare), str(tmp_path)], check=True)
    result = lana(
        "compress", f"{tmp_path}/net.py:build", "--weights", tmp_path / "net.pt", "--data", f"folder:{tmp_path}/images",
        "--budget", "0.6x", "--image-size", "16", "--mean", "0.3", "--std", "0.35", "--out", tmp_path / "run",
        "--distill-epochs", "1", "--epochs", "2", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = summary_of(tmp_path / "run", "0.6x")
    assert summary["verified"]
    assert summary["student_accuracy"] > summary["teacher_accuracy"] - 0.05
