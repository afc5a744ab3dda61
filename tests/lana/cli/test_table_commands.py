"""`lana profile`, `lana measure` and `lana table`, as a user types them, on one layer of the bundled network."""

import json
import shutil

import pytest
from click.testing import CliRunner

from lana.cli import main
from profilers import LatencyTable


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


PROFILE = ("profile", "digits-resnet", "--layers", "blocks.0", "--pool", "skip,cb_stack_k1_w1", "--quiet")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    result = run(*PROFILE, "--affinity", "0", "--out", folder / "mine.csv")
    assert result.exit_code == 0, result.output
    assert "3 rows" in result.output
    return folder / "mine.csv"


def test_settings_are_those_of_the_table(table):
    header = LatencyTable.read(table).header
    assert header.settings.affinity == (0,)
    assert header.settings.precision == "fp32"
    assert header.protocol["rounds"] >= 3
    assert header.environment["system"]


def test_other_settings_are_not_mixed_in(table):
    result = run(*PROFILE, "--out", table)
    assert result.exit_code == 2
    assert "settings: {" in result.output
    assert '"affinity": [0]' in result.output
    assert len(LatencyTable.read(table)) == 3


def test_a_precision_that_the_runtime_lacks_is_refused(table):
    result = run(*PROFILE, "--runtime-precision", "bf16", "--out", table)
    assert result.exit_code == 2
    assert "offers fp32" in result.output


def test_layers_that_do_not_exist_are_refused(tmp_path):
    result = run("profile", "digits-resnet", "--layers", "layer9", "--out", tmp_path / "t.csv")
    assert result.exit_code == 2
    assert "lana layers MODEL" in result.output
    assert not (tmp_path / "t.csv").exists()


def test_show_check_diff_and_merge(table, tmp_path):
    shown = run("table", "show", table)
    assert "3 rows" in shown.output
    assert "Begun under: system" in shown.output
    assert "whole and unchanged" in run("table", "check", table).output
    assert "median distance 0.00%" in run("table", "diff", table, table).output
    merged = run("table", "merge", table, table, "--out", tmp_path / "both.csv")
    assert merged.exit_code == 0
    assert LatencyTable.read(tmp_path / "both.csv").fields == LatencyTable.read(table).fields


def test_machines_read_the_same_as_json(table, tmp_path):
    def read(*arguments):
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    shown = read("table", "show", table)
    assert shown["runtime"] == "onnxruntime-cpu"
    assert {row["key"] for row in shown["rows"]} == set(LatencyTable.read(table).fields)
    assert all(row["latency_ms"] > 0 for row in shown["rows"])
    assert read("table", "check", table) == [{"table": str(table), "rows": 3}]
    assert read("table", "merge", table, table, "--out", tmp_path / "both.csv")["rows"] == 3
    diff = read("table", "diff", table, table)
    assert (diff["rows"], diff["median_ratio"], diff["within_10_percent"]) == (3, 1.0, 1.0)
    assert [row["ratio"] for row in diff["shared"]] == [1.0] * 3
    again = read(*PROFILE, "--affinity", "0", "--out", table)
    assert (again["table"], again["rows"], again["failed"]) == (str(table), 3, 0)
    sent = read(*PROFILE, "--runtime", "tensorrt", "--bundle", tmp_path / "out.zip")
    assert sent == {"bundle": str(tmp_path / "out.zip"), "computations": 3}


def test_merging_into_a_folder_is_told(table, tmp_path):
    result = run("table", "merge", table, table, "--out", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: " in result.output
    assert list(tmp_path.parent.glob(f".{tmp_path.name}.*")) == []


def test_a_file_of_open_batch_is_measured_at_the_batch_that_is_given(tmp_path):
    import torch

    x = torch.zeros(2, 4, 8, 8)
    module, file = torch.nn.Conv2d(4, 4, 3).eval(), tmp_path / "open.onnx"
    torch.onnx.export(module, (x,), str(file), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},))
    result = run("measure", file, "--runtime-batch", 8, "--processes", 1, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["latency_ms"] > 0


@pytest.mark.serial
def test_files_are_measured_side_by_side(tmp_path):
    import torch

    from lana.exporters.onnx_export import export_onnx

    files = [tmp_path / f"{size}.onnx" for size in (32, 8)]
    for file in files:
        export_onnx(torch.nn.Conv2d(8, 8, 3).eval(), torch.zeros(1, 8, int(file.stem), int(file.stem)), file)
    printed = run("measure", *files, "--processes", 3, "--json")
    assert printed.exit_code == 0, printed.output
    (small,) = json.loads(printed.output)["beside"]
    low, high = small["ratio_interval95"]
    assert low < small["ratio"] < high
    assert small["ratio"] < 0.5


def test_a_changed_figure_is_refused(table, tmp_path):
    changed = tmp_path / "changed.csv"
    shutil.copyfile(table, changed)
    latency = next(iter(LatencyTable.read(table).fields.values()))["latency_ms"]
    changed.write_text(changed.read_text().replace(latency, "0.001", 1))
    result = run("table", "check", table, changed)
    assert result.exit_code == 2
    assert str(changed) in result.output
    assert "Traceback" not in result.output
