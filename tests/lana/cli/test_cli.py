"""Bad input ends with exit code 2 and one clear message, before any work is done and with nothing lost."""

import json
import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from made_summary import make_summary
from safetensors.torch import save_file

from lana.cli import main
from lana.config.recipe import FINETUNING, OPTIONS, SELECTING
from lana.errors import UserError

DIGITS = ["compress", "digits-resnet", "--data", "digits"]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result, *expected):
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    for text in expected:
        assert text in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compres", "x"], "Did you mean: compress"),
        ([*DIGITS], "No budget was given"),
        ([*DIGITS, "--budget", "0.4x", "--budget-ms", "1"], "Give one of them"),
        ([*DIGITS, "--budget", "0x"], "not above zero"),
        ([*DIGITS, "--budget", "soon"], "neither a share"),
        ([*DIGITS, "--budget", "0.4x", "--threads", "0"], "--threads 0: expected at least 1"),
        ([*DIGITS, "--budget", "0.4x", "--mean", "a,b"], "is not a list of numbers"),
        (["compress", "digits-resent", "--data", "digits", "--budget", "0.4x"], "Did you mean: digits-resnet"),
        (["compress", "digits-resnet", "--budget", "0.4x"], "MODEL and --data are needed"),
        (["compress", "digits-resnet", "--data", "folder:nowhere", "--budget", "0.4x"], "there is no folder"),
        ([*DIGITS, "--budget", "0.4x", "--weights", "none.safetensors"], "There is no weights file"),
        ([*DIGITS, "--budget", "0.4x", "--layers", "nothing.*"], "no layer that can be replaced"),
        ([*DIGITS, "--budget", "0.4x", "--layers", "blocks.*,block.1"], "--layers 'block.1' matches no layer"),
        ([*DIGITS, "--budget", "0.4x", "--exclude", "blocks.3,steam.*"], "--exclude 'steam.*' matches no layer"),
        (["layers", "digits-resnet", "--exclude", "blocks.99"], "Did you mean: blocks.9"),
        ([*DIGITS, "--budget", "0.4x", "--runtime", "onnxruntime-gpu"], "There is no runtime"),
        ([*DIGITS, "--budget", "0.4x", "--pool", "defualt"], "default"),
        ([*DIGITS, "--budget", "0.4x", "--max-minutes", "0.01"], "is too short"),
        ([*DIGITS, "--budget", "0.4x", "--distillation", "1.5"], "expected at most 1"),
        ([*DIGITS, "--budget", "0.4x", "--optimizer", "adam"], "expected one of adamw, sgd"),
        ([*DIGITS, "--budget", "0.4x", "--pool", "default,none.py"], "should hold operations, but there is no file"),
        (["compress", "net.py:build", "--data", "digits", "--budget", "1x"], "should hold a model, but there is no"),
        (["compress", "net.py", "--data", "digits", "--budget", "1x"], "names no function"),
        (["compress", "digits-resnet", "--data", ".", "--budget", "1x"], "Did you mean: folder:.?"),
        (["compress", "digits-resnet", "--data", "npz:none.npz", "--budget", "1x"], "there is nothing at none.npz"),
        (["select", "nowhere", "--budget", "0.4x"], "is not a run"),
        (["compare", "nowhere"], "is not a run"),
        (["evaluate", "digits-resnet", "--data", "digits", "--std", "0"], "--std (0.0,): expected at least 1e-06"),
        (["evaluate", "digits-resnet", "--data", "digits", "--task", "segmentation"], "fails on outputs of shape"),
        (["validate-scores", "nowhere"], "is not a run"),
        (["export", "nowhere", "net.onnx"], "Unknown model"),
        (["evaluate", "nowhere", "--data", "digits"], "Unknown model"),
        (["report", "nowhere"], "is not a run"),
        (["finetune", "nowhere"], "not a student's folder"),
        (["measure", "nowhere.onnx"], "neither an ONNX file nor a student's folder"),
        (["evaluate", "digits-resnet"], "No data was given"),
        (["profile", "digits-resnet", "--tables", "nowhere"], "--tables nowhere: there is no such folder"),
        (["profile", "digits-resnet", "--bundle", "o.zip", "--runtime", "onnxruntime"], "There is no runtime"),
        (["evaluate", "digits-resnet", "--data", "digits", "--device", "gpu"], "--device gpu cannot be used here"),
        ([*DIGITS, "--budget", "0.4x", "--device", "cuda:99"], "There are: cpu"),
    ],
)
def test_bad_input_is_refused(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    refused(run(*arguments), expected)


def test_weights_of_other_shapes_name_the_keys(tmp_path):
    import torch

    save_file({"classifier.weight": torch.zeros(7, 64)}, tmp_path / "w.safetensors")
    result = run(*DIGITS, "--budget", "0.4x", "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "run")
    refused(result, "classifier.weight: (7, 64) in the file, (10, 64) in the model", "missing from the file")


def test_an_untrained_teacher_is_stopped_at_once(tmp_path):
    import torch

    from lana.models.bundled import DigitsResNet

    torch.manual_seed(0)
    save_file(DigitsResNet().state_dict(), tmp_path / "w.safetensors")
    result = run(*DIGITS, "--budget", "0.4x", "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "run")
    refused(result, "a guess has 10.00%", "Check --weights, --image-size, --mean, --std")


def test_labels_that_the_model_has_no_class_for(tmp_path):
    import numpy as np

    images = np.zeros((400, 8, 8), np.uint8)
    np.savez(tmp_path / "d.npz", x_train=images, y_train=np.arange(400) % 20)
    result = run(
        "compress", "digits-resnet", "--data", f"npz:{tmp_path}/d.npz", "--budget", "0.4x", "--out", tmp_path / "run"
    )
    refused(result, "the model has 10 classes")
    assert not (tmp_path / "run" / "recipe.yaml").exists()  # the corrected command may use the same folder


def test_a_run_of_another_recipe_is_kept(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: digits-resnet\ndata: digits\nthreads: 2\n")
    (tmp_path / "stages.json").write_text('{"profile": {"fingerprint": "x", "seconds": 1.0}}')  # something is finished
    refused(run(*DIGITS, "--budget", "0.4x", "--out", tmp_path), "threads: 2 there, 1 now")
    assert (tmp_path / "recipe.yaml").read_text().endswith("threads: 2\n")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_pools_layers_and_runtimes_are_listed(options):
    assert "pruned" in run("pool", *options).output
    assert "merged" not in run("pool", "skip", *options).output
    assert "blocks.0" in run("layers", "digits-resnet", *options).output
    assert "onnxruntime-cpu" in run("runtimes", *options).output
    if options:
        for command in (["pool"], ["layers", "digits-resnet"], ["runtimes"]):
            assert json.loads(run(*command, *options).output)


def test_pool_explains_what_a_model_is_offered():
    command = ["pool", "digits-resnet", "--explain", "--pool", "identity,no_se", "--max-span", "1"]
    shown = run(*command)
    assert shown.exit_code == 0
    assert "no_se: it has no" in shown.output
    rows = {(one["layer"], one["family"]): one for one in json.loads(run(*command, "--json").output)}
    assert rows["blocks.1", "identity"] == {
        "layer": "blocks.1", "family": "identity", "offered": ["identity"], "refused": {}
    }  # fmt: skip
    assert rows["blocks.5", "identity"]["refused"] == {"identity": "its output has another shape than its input"}


def test_pool_explains_models_only():
    refused(run("pool", "--explain"), "--explain needs a MODEL")
    refused(run("pool", "default", "--max-span", "1"), "--max-span is for a MODEL: give --explain too")


def test_a_runtime_that_is_not_installed_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setattr("profilers.tensorrt_runtime.TensorRT.packages", ("a_package_that_is_not_there",))
    refused(run(*DIGITS, "--budget", "0.4x", "--runtime", "tensorrt"), "Install it with: pip install tensorrt")


@pytest.mark.parametrize(("verified", "changed", "code"), [(True, True, 0), (False, True, 1), (False, False, 0)])
def test_the_exit_code_tells_whether_the_budget_is_kept(monkeypatch, verified, changed, code):
    summary = make_summary(verified=verified, changed=changed)
    monkeypatch.setattr("lana.pipeline.compress", lambda *_, **__: summary)
    assert run(*DIGITS, "--budget", "0.4x", "--json").exit_code == code


def test_an_error_of_our_own_is_no_missed_budget(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr("lana.pipeline.compress", fail)
    result = run(*DIGITS, "--budget", "0.4x")
    assert result.exit_code == 70
    assert "RuntimeError: not foreseen" in result.output
    assert "report" in result.output


def test_an_interruption_says_how_to_go_on(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lana.pipeline.compress", interrupt)
    result = run(*DIGITS, "--budget", "0.4x")
    assert result.exit_code == 130
    assert "the same command resumes from there" in result.output


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    import errno

    def full(path, fill):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lana.common.files.write_atomically", full)
    refused(run(*DIGITS, "--budget", "0.4x", "--out", tmp_path / "run"), "is full. Free some space")


def test_a_path_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("precious")
    refused(run(*DIGITS, "--budget", "0.4x", "--out", tmp_path / "file"), f"{tmp_path / 'file'}: File exists")
    below = tmp_path / "file" / "out"
    refused(run("profile", "digits-resnet", "--pool", "skip", "--bundle", below), "file: File exists")


def test_every_command_has_help():
    for name, command in commands().items():
        path = name if name in main.commands else f"table {name}"
        result = run(*path.split(), "--help")
        assert result.exit_code == 0
        assert f"lana {path}" in command.help, f"{name} shows no example"


def commands():
    return {**main.commands, **main.commands["table"].commands}


def options_of(command):
    return {name for parameter in main.commands[command].params for name in (parameter.name, *parameter.opts)}


def test_every_field_of_the_recipe_is_an_option():
    """Options are listed by hand: this holds the lists to the recipe."""
    given = options_of("compress")
    assert set(OPTIONS) <= given
    assert set(SELECTING) <= options_of("select")
    assert {"distill_batch", "compile"} <= given


def test_all_that_fine_tuning_can_be_told_is_an_option():
    assert set(FINETUNING) - {"seed"} <= options_of("finetune")  # the seed is the run's


def test_every_command_that_makes_or_finds_something_speaks_json():
    silent = [name for name, command in commands().items() if "json_output" not in {p.name for p in command.params}]
    assert silent == ["table"]  # the group


def test_the_examples_of_every_help_are_commands_that_exist(monkeypatch):
    """Every example parses: the commands and options in it exist, and nothing that is needed is missing."""
    lines = [line.split("#")[0] for command in commands().values() for line in command.help.splitlines()]
    examples = [shlex.split(line)[1:] for line in lines if line.strip().startswith("lana ")]
    assert len(examples) > 20
    for words in examples:
        name, command, rest = main.resolve_command(click.Context(main), words)
        if isinstance(command, click.Group):
            name, command, rest = command.resolve_command(click.Context(command), rest)
        for parameter in command.params:
            monkeypatch.setattr(parameter, "callback", None)  # which looks whether the file is there
        assert command.make_context(name, rest).params


def test_what_cannot_be_replaced_is_listed():
    result = run("layers", "digits-resnet")
    assert result.exit_code == 0
    assert "16 replaceable layers" in result.output


def test_runtimes_say_why_not():
    result = run("runtimes")
    assert result.exit_code == 0
    assert "onnxruntime-cpu" in result.output
    assert "tensorrt" in result.output


def test_a_dry_run_estimates_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*DIGITS, "--budget", "0.4x", "--dry-run")
    assert result.exit_code == 0
    assert "total" in result.output
    plan = json.loads(run(*DIGITS, "--budget", "0.4x", "--dry-run", "--json").output)
    assert plan["total_s"] > plan["distill_s"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "digits-resnet", "--data", "folder:nowhere", "--budget", "0.4x"],
        ["compress", "digits-resnet", "--data", "digits", "--budget", "soon"],
        ["compress", "digits-resnet", "--data", "digits", "--budget", "1x", "--weights", "none.pt"],
        ["select", "nowhere", "--budget", "0.4x"],
        ["finetune", "nowhere"],
        ["export", "nowhere", "net.onnx"],
        ["measure", "nowhere.onnx"],
        ["profile", "nowhere.py:net"],
        ["table", "show", "nowhere.csv"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_before_torch_is_loaded(tmp_path, arguments):
    script = (
        "import sys; from click.testing import CliRunner; from lana.cli import main;"
        f"result = CliRunner().invoke(main, {arguments}); print(result.exit_code, 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "2 False"


@pytest.mark.parametrize("package", ["lana", "lana.cli"])
def test_the_package_runs_as_the_command(package):
    told = subprocess.run([sys.executable, "-m", package, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("lana, version ")


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("lana", ("torch", "onnxruntime", "pandas")),
        ("lana.cli", ("torch", "onnxruntime", "pandas")),
        ("solvers", ("torch", "lana", "profilers")),
        ("profilers", ("torch", "onnxruntime", "tensorrt", "openvino", "lana", "solvers")),
    ],
)
def test_what_an_import_loads(package, forbidden):
    script = f"import sys, {package}; print([name for name in {forbidden} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["compress", "select"])
@pytest.mark.parametrize("keep", [True, False])
def test_keep_over_budget_reaches_the_pipeline(monkeypatch, tmp_path, command, keep):
    received = {}

    def record(*_, **options):
        received.update(options)
        raise UserError("that is enough")

    monkeypatch.setattr(f"lana.pipeline.{command}", record)
    (tmp_path / "recipe.yaml").write_text("model: digits-resnet\n")
    flag = ["--keep-over-budget"] if keep else []
    first = DIGITS if command == "compress" else ("select", tmp_path)
    run(*first, "--budget", "0.4x", *flag)
    assert received["keep_over_budget"] is keep


@pytest.mark.parametrize("option", ["--weights", "--task", "--device", "--mean"])
def test_an_empty_value_is_refused(option):
    """As of a variable of the shell that is not set: the default would be taken without a word."""
    refused(run("evaluate", "digits-resnet", "--data", "digits", option, ""), option)


def test_a_message_of_the_command_line_is_bounded():
    assert len(run("x" * 20_000).output) < 4000
    assert len(run("layers", "digits-resnet", "--max-span", "9" * 4000 + "x").output) < 4000
