"""`lana export MODEL net.onnx --precisions int8 --data DATA`: post-training quantization in one line."""

import json

import pytest
from click.testing import CliRunner

from lana.cli import main


def export(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_a_model_is_written_as_it_is(tmp_path):
    result = export("digits-resnet", tmp_path / "net.onnx", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["precisions"] == "fp32"


def test_int8_is_smaller_and_near(tmp_path):
    results = {
        name: json.loads(export("digits-resnet", tmp_path / f"{name}.onnx", *options, "--json").output)
        for name, options in {"fp32": (), "int8": ("--precisions", "int8", "--data", "digits")}.items()
    }
    assert results["int8"]["precisions"] == "int8"
    assert results["int8"]["bytes"] < 0.5 * results["fp32"]["bytes"]
    assert results["fp32"]["max_relative_error"] < results["int8"]["max_relative_error"] < 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.onnx", ("--precisions", "int8"), "needs --data, an ONNX file and a fixed batch"),
        ("net.pt2", ("--precisions", "int8", "--data", "digits"), "needs --data, an ONNX file and a fixed batch"),
        ("net.onnx", ("--precisions", "int4"), "--precisions 'int4': expected fp32, int8 or both"),
        ("net.onnx", ("--data", "nowhere"), "Unknown data 'nowhere'"),
    ],
)
def test_wrong_options_are_refused(tmp_path, name, options, message):
    result = export("digits-resnet", tmp_path / name, *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.iterdir())
