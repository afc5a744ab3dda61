"""int8 files by ONNX Runtime's quantizer: fused in full, accurate, and clear where they cannot be made."""

import numpy as np
import onnx
import onnxruntime
import pytest

from lana.errors import UserError
from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_session, run_onnx
from lana.quantization.onnx_quantizer import LEAST_INPUTS, QuantizationFailed, quantize_onnx
from lana.quantization.scheme import Scheme


@pytest.fixture(scope="module")
def inputs(digits_data):
    return [images.numpy() for images, _ in digits_data.train.subset(5 * LEAST_INPUTS + 3).batches(1)]


@pytest.fixture(scope="module")
def files(digits_teacher, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    plain = export_onnx(digits_teacher.module, digits_teacher.example(), folder / "plain.onnx")
    return plain, quantize_onnx(plain, folder / "int8.onnx", inputs, Scheme())


def optimised_operators(path, folder):
    """Operators of the graph that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def test_no_convolution_is_left_in_float(files, tmp_path):
    plain, quantized = (optimised_operators(path, tmp_path) for path in files)
    convolutions = [name for name in plain if "Conv" in name]
    assert convolutions
    assert [name for name in quantized if "Conv" in name] == ["QLinearConv"] * len(convolutions)


def test_a_file_in_int8_classifies_as_the_network_does(files, digits_data):
    plain, quantized = (onnx_session(path) for path in files)
    same = [
        run_onnx(plain, images)[0].argmax() == run_onnx(quantized, images)[0].argmax()
        for images, _ in digits_data.test.batches(1)
    ]
    assert np.mean(same) >= 0.98


def test_ranges_are_those_of_all_images(digits_teacher, inputs, tmp_path):
    """The last stride alone would give other ranges: the brightest image is in the first."""
    plain = export_onnx(digits_teacher.module, digits_teacher.example(), tmp_path / "plain.onnx")
    bright = [8.0 * inputs[0], *inputs[1 : 2 * LEAST_INPUTS]]
    first, last = (tmp_path / "first.onnx", tmp_path / "last.onnx")
    quantize_onnx(plain, first, bright, Scheme())
    quantize_onnx(plain, last, bright[::-1], Scheme())
    scales = [
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer if "scale" in t.name}
        for path in (first, last)
    ]
    assert scales[0].keys() == scales[1].keys()
    assert all(np.allclose(scale, scales[1][name]) for name, scale in scales[0].items())
    assert float(scales[0]["input_scale"]) >= 8 * np.abs(inputs[0]).max() / 256


def test_too_few_images_are_refused(files, inputs, tmp_path):
    with pytest.raises(UserError, match=r"15 images are too few to calibrate int8 on\. Give data with at least 16"):
        quantize_onnx(files[0], tmp_path / "few.onnx", inputs[:15], Scheme())


def test_ranges_that_are_not_finite_are_refused(files, inputs, tmp_path):
    broken = [np.full_like(inputs[0], np.inf)] * LEAST_INPUTS
    with pytest.raises(QuantizationFailed):
        quantize_onnx(files[0], tmp_path / "broken.onnx", broken, Scheme())
    assert not (tmp_path / "broken.onnx").exists()
