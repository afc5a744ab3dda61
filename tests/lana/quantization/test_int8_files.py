"""Files with int8 layers: int8 where it was asked for, float elsewhere, and the same outputs as a module."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lana.exporters.onnx_export import export_onnx
from lana.networks.structure import structure_key
from lana.quantization.int8_files import (
    FileNetwork,
    MixedPrecision,
    conversion_computation,
    network_computation,
    operation_computation,
    precision_text,
)
from lana.quantization.onnx_quantizer import QuantizationFailed, quantize_onnx
from lana.quantization.scheme import Scheme

X = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))


def block():
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())


@pytest.fixture(scope="module")
def network():
    """Two blocks, a pooling that belongs to neither, two more, and a classifier."""
    torch.manual_seed(0)
    parts = [block(), block(), nn.MaxPool2d(2), block(), block(), nn.Flatten(), nn.Linear(128, 4)]
    return nn.Sequential(*parts).eval()


def inputs(count=32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(X.shape, generator=generator).numpy() for _ in range(count)]


def run_operators(path):
    """Operators of the graph that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def made(network, folder, int8, example=X, **options):
    precision = {name: "int8" if name in int8 else "fp32" for name in ("0", "1", "3", "4")}
    mixed = MixedPrecision(scheme=Scheme(), layers=precision, **options)
    return network_computation(network, example, folder, name="net", mixed=mixed)


@pytest.mark.parametrize(("int8", "integer"), [(["0"], 1), (["0", "1"], 2), (["1", "3"], 2), (["0", "1", "3", "4"], 4)])
def test_as_many_convolutions_are_integer_as_layers_are_int8(network, tmp_path, int8, integer):
    operators = run_operators(made(network, tmp_path, int8).file)
    assert operators.count("QLinearConv") == integer
    assert sum(name in ("Conv", "FusedConv") for name in operators) == 4 - integer


@pytest.mark.parametrize(("int8", "converted"), [(["0", "1"], 1), (["0", "3"], 2), (["1", "3"], 1), (["0", "4"], 2)])
def test_a_tensor_is_converted_at_the_ends_of_a_run_of_int8_only(network, tmp_path, int8, converted):
    """The pooling between two int8 layers is int8 too."""
    assert run_operators(made(network, tmp_path, int8).file).count("QuantizeLinear") == converted


def test_a_file_of_some_int8_layers_computes_the_network(network, tmp_path):
    file = made(network, tmp_path, ["0", "1"], inputs=inputs()).file
    seen = torch.cat([torch.from_numpy(one) for one in inputs(20)])
    with torch.no_grad():
        expected, outputs = network(seen), FileNetwork(file)(seen)
    assert (outputs - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_network_is_left_as_it_was(network, tmp_path):
    names = [name for name, _ in network.named_modules()]
    made(network, tmp_path, ["0", "3"])
    assert [name for name, _ in network.named_modules()] == names


def test_precisions_of_other_layers_are_another_key(network, tmp_path):
    keys = {made(network, tmp_path, int8).key for int8 in (["0"], ["1"], ["0", "1"])}
    assert len(keys | {structure_key(network, (X,))}) == 4


def test_a_batch_that_does_not_fill_the_file_is_filled_up(network, tmp_path):
    one = FileNetwork(made(network, tmp_path, ["0"], inputs=inputs()).file)
    tripled = [one_input.repeat(3, axis=0) for one_input in inputs()]
    three = made(network, tmp_path / "three", ["0"], X.expand(3, -1, -1, -1), inputs=tripled)
    seen = torch.cat([torch.from_numpy(one_input) for one_input in inputs(5)])
    assert torch.allclose(FileNetwork(three.file)(seen), one(seen), atol=1e-5)


def test_an_operation_converts_at_both_ends(tmp_path):
    made = operation_computation(block().eval(), X, tmp_path, name="block@int8", scheme=Scheme())
    operators = run_operators(made.file)
    assert [operators.count(name) for name in ("QuantizeLinear", "QLinearConv", "DequantizeLinear")] == [1, 1, 1]
    assert made.key == structure_key(block().eval(), (X,), precision_text(Scheme()))
    assert made.exporter.startswith("pytorch ")


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_a_conversion_is_there_and_back(tmp_path, activation):
    made = conversion_computation(X, tmp_path, name="conversion", scheme=Scheme(activation=activation))
    assert run_operators(made.file) == ["QuantizeLinear", "DequantizeLinear"]
    outputs = FileNetwork(made.file)(X.clamp(-1, 1))
    assert (outputs - X.clamp(-1, 1)).abs().max() <= 0.01 + 1e-6  # half a step


def test_a_file_whose_nodes_name_no_layer_is_refused(network, tmp_path):
    plain = export_onnx(network, X, tmp_path / "plain.onnx")
    with pytest.raises(QuantizationFailed, match="has no node to quantize"):
        quantize_onnx(plain, tmp_path / "int8.onnx", None, Scheme(), nodes=lambda graph: [])


def test_a_failed_quantization_leaves_no_file_under_the_name_of_an_int8_one(tmp_path):
    broken = [one * float("inf") for one in inputs()]
    for _ in range(2):  # the second time, too, it is no fp32 file that is found
        with pytest.raises(QuantizationFailed):
            operation_computation(block().eval(), X, tmp_path, name="block@int8", scheme=Scheme(), inputs=broken)
    assert list(tmp_path.iterdir()) == []
