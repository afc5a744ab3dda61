"""ONNX files in half precision: their types, what they compute, and who converts them."""

import dataclasses
import zipfile

import numpy as np
import onnx
import pytest
from computations import SPEC, expected_convolution, onnx_convolution

from profilers import BuildFailed, Computation, RuntimeSettings, create_runtime
from profilers.bundle import write_bundle
from profilers.half_precision import in_precision
from profilers.kernels import KERNELS, onnx_kernel

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def types(path):
    """Of the weights; of inputs and outputs; what each operator but casts takes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    of = {value.name: value.type.tensor_type.elem_type for value in values}
    inner = {of[name] for node in graph.node if node.op_type != "Cast" for name in node.input if name in of}
    ends = {of[value.name] for value in (*graph.input, *graph.output)}
    return {weight.data_type for weight in graph.initializer}, ends, inner


def outputs(computation, x):
    with create_runtime("onnxruntime-cpu", RuntimeSettings()).prepare(computation) as session:
        return session.outputs([x])[0]


def test_a_converted_file_computes_in_half_between_float_ends(tmp_path):
    half = in_precision(onnx_convolution(tmp_path), "fp16", tmp_path)
    assert half.precision == "fp16"
    assert types(half.file) == ({HALF}, {FLOAT}, {HALF})
    x = np.random.default_rng(0).standard_normal(SPEC.shape).astype(np.float32)
    error = np.abs(outputs(half, x) - expected_convolution(x)).max()
    assert 0 < error < 5e-3


def test_the_precision_of_a_file_is_known(tmp_path):
    written = onnx_convolution(tmp_path)
    half = in_precision(written, "fp16", tmp_path)
    assert (Computation.from_onnx(written.file).precision, Computation.from_onnx(half.file).precision) == (
        "fp32",
        "fp16",
    )
    assert in_precision(half, "fp16", tmp_path) is half
    assert Computation.from_json(half.to_json(tmp_path), tmp_path) == half
    with pytest.raises(BuildFailed, match="computes in fp16, the settings have fp32"):
        in_precision(half, "fp32", tmp_path)


def test_a_file_that_is_no_model_is_a_failed_build(tmp_path):
    broken = onnx_convolution(tmp_path)
    broken.file.write_bytes(b"no model")
    with pytest.raises(BuildFailed, match="cannot be converted to fp16"):
        in_precision(broken, "fp16", tmp_path)


@pytest.mark.parametrize("name", KERNELS)
def test_calibration_kernels_have_a_precision_too(tmp_path, name):
    whole = onnx_kernel(name, tmp_path)
    x = whole.samples()[0]
    expected = outputs(whole, x)
    half = onnx_kernel(name, tmp_path, "fp16")
    weights, ends, inner = types(half.file)
    assert (weights <= {HALF}, ends, inner) == (True, {FLOAT}, {HALF})
    np.testing.assert_allclose(outputs(half, x), expected, atol=0.01)


def test_an_archive_for_tensorrt_holds_the_converted_file(tmp_path):
    written, settings = onnx_convolution(tmp_path), RuntimeSettings(precision="fp16")
    broken = dataclasses.replace(onnx_convolution(tmp_path, key="broken"), key="broken")
    broken.file.write_bytes(b"no model")
    archive = write_bundle(tmp_path / "o.zip", [written, broken], runtime="tensorrt", settings=settings)
    zipfile.ZipFile(archive).extractall(tmp_path / "device")
    inside = tmp_path / "device" / "computations"
    assert types(inside / "0000" / "computation.onnx")[0] == {HALF}
    assert (inside / "0001" / "computation.onnx").read_bytes() == b"no model"
    assert '"precision": "fp16"' in (tmp_path / "device" / "job.json").read_text()
