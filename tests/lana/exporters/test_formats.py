"""Every format that a student can be shipped in: the file is run again and gives what PyTorch gives."""

import dataclasses
import json

import onnx
import pytest
import torch
from click.testing import CliRunner

from lana.cli import main
from lana.exporters.formats import FORMATS, Options, export_as, format_of
from lana.exporters.tracing import ExportFailed
from lana.models.student import assemble
from lana.models.student_files import save_student
from profilers import RuntimeUnavailable
from profilers.formats import SUFFIXES

HERE = ("onnx", "torch_export", "openvino")


@pytest.fixture(scope="module")
def student(digits_teacher, digits_scan, tmp_path_factory):
    """A student's folder with operations in place of two layers."""
    folder = tmp_path_factory.mktemp("formats") / "run" / "students" / "mine"
    selection = {"blocks.1": "identity", "blocks.6": "pruned_w0.5"}
    torch.manual_seed(0)
    module = assemble(digits_teacher.module, digits_scan.layers, selection)
    save_student(module, folder, digits_teacher, digits_scan.layers, selection)
    return folder


def export(student, path, *options):
    return CliRunner().invoke(main, ["export", str(student), str(path), *map(str, options)])


def exported(student, path, *options):
    result = export(student, path, *options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture(autouse=True)
def _openvino(request):
    if "openvino" in request.node.name:
        pytest.importorskip("openvino", reason="DID NOT RUN: OpenVINO is not installed")


@pytest.mark.parametrize("format", HERE)
def test_a_file_gives_what_pytorch_gives_at_the_batch_asked_for(student, tmp_path, digits_teacher, format):
    path = tmp_path / f"net{SUFFIXES[format]}"
    found = exported(student, path, "--batch", 3)
    assert (found["format"], found["batch"]) == (format, 3)
    assert found["bytes"] > 10_000
    assert found["max_relative_error"] < 1e-5
    with pytest.raises(Exception, match=r"(?i)dim|shape|size|batch"):
        FORMATS[format].run(path, digits_teacher.example(2))


@pytest.mark.parametrize("format", HERE)
def test_an_open_batch_takes_any_number(student, tmp_path, digits_teacher, format):
    path = tmp_path / f"net{SUFFIXES[format]}"
    assert exported(student, path, "--dynamic-batch")["batch"] is None
    for batch in (1, 5):
        assert FORMATS[format].run(path, digits_teacher.example(batch))[0].shape == (batch, 10)


@pytest.mark.parametrize("opset", [13, 17, 22])
def test_the_opset_is_the_one_that_was_asked_for(student, tmp_path, opset):
    assert exported(student, tmp_path / "net.onnx", "--opset", opset)["opset"] == opset
    model = onnx.load(tmp_path / "net.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["input", "output"]


def test_half_precision_halves_an_openvino_file(student, tmp_path):
    whole = exported(student, tmp_path / "whole.xml")
    half = exported(student, tmp_path / "half.xml", "--runtime-precision", "fp16")
    weights = [(tmp_path / f"{name}.bin").stat().st_size for name in ("whole", "half")]
    assert weights[1] < 0.6 * weights[0]
    assert whole["max_relative_error"] < half["max_relative_error"] < 0.02


def test_a_tensorrt_engine_gives_what_pytorch_gives(student, tmp_path):
    try:
        format_of("net.engine", None, Options())
    except RuntimeUnavailable as error:
        pytest.skip(f"DID NOT RUN: {error}")
    found = exported(student, tmp_path / "net.engine")
    assert (tmp_path / "net.engine").stat().st_size == found["bytes"]
    assert found["max_relative_error"] < 1e-3


def test_without_tensorrt_nothing_is_written_but_the_remedy(student, tmp_path, monkeypatch):
    monkeypatch.setattr("profilers.tensorrt_runtime.TensorRT.packages", ("a_package_that_is_not_there",))
    result = export(student, tmp_path / "net.engine")
    assert result.exit_code == 2
    assert "pip install tensorrt cuda-python" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net", (), "Give --format"),
        ("net.onnx", ("--format", "caffe"), "expected one of onnx, torch_export, openvino, tensorrt"),
        ("net.onnx", ("--format", ""), "expected one of onnx, torch_export, openvino, tensorrt"),
        ("net.onnx", ("--opset", 3), "expected a number from 13"),
        ("net.pt2", ("--opset", 18), "has no opset"),
        ("net.onnx", ("--runtime-precision", "fp16"), "formats that offer it: openvino, tensorrt"),
        ("net.engine", ("--dynamic-batch",), "has a fixed batch"),
    ],
)
def test_what_cannot_be_is_told(student, tmp_path, name, options, message):
    result = export(student, tmp_path / name, *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_the_figures_are_told_to_people_too(student, tmp_path):
    output = export(student, tmp_path / "net.onnx", "--dynamic-batch").output
    assert "opset 18, any batch, fp32" in output
    assert "differs from PyTorch by at most" in output


def test_a_file_that_computes_something_else_is_refused(digits_teacher, tmp_path, monkeypatch):
    off = dataclasses.replace(FORMATS["onnx"], run=lambda path, inputs: [torch.zeros(len(inputs), 10).numpy()])
    monkeypatch.setitem(FORMATS, "onnx", off)
    with pytest.raises(ExportFailed, match="do not use it"):
        export_as(digits_teacher.module, digits_teacher.example, tmp_path / "net.onnx")


def test_what_lies_beside_a_file_is_no_part_of_its_size(student, tmp_path):
    (tmp_path / "net.bin").write_bytes(bytes(1_000_000))
    found = exported(student, tmp_path / "net.onnx")
    assert found["bytes"] == (tmp_path / "net.onnx").stat().st_size
