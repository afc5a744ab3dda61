"""A student of both precisions, from the digits to a delivered file."""

import onnx
import pytest
import torch

import lana
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Classification
from lana.models.student import int8_layers
from lana.quantization.int8_files import FileNetwork
from lana.report.search_comparison import compare_searches
from profilers.table import LatencyTable

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "run"
    recipe = lana.Recipe(
        model="digits-resnet",
        data="digits",
        budget="0.4x",
        layers="blocks.*",
        max_span=1,
        pool="identity,pruned_w0.5,linear_k3",
        distill_epochs=0.5,
        distill_images=256,
        score_images=100,
        refine=3,
        calibrate=4,
        proposals=1,
        epochs=0.0,
        precisions="fp32,int8",
    )
    return out, lana.compress(recipe, out=out, quiet=True)


def test_the_table_holds_both_precisions_and_conversions(made):
    out, _ = made
    names = LatencyTable.read(out / "pool" / "table.csv").rows["name"]
    assert names.str.startswith("teacher (").any()
    assert names.str.startswith("teacher@int8 (").any()
    assert names.str.startswith("conversion@int8 (").any()


def test_int8_layers_of_the_delivered_file_are_quantized_and_others_are_not(made):
    out, summary = made
    if not (layers := int8_layers(summary.selection)):
        pytest.skip("int8 pays nowhere on this processor")
    graph = onnx.load(str(out / "students" / summary.student / "model.onnx")).graph
    dequantized = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and "_layer" in node.name]
    inside = {node.name for node in convolutions if "/int8_layer" in node.name}
    assert inside
    assert {node.name for node in convolutions if node.input[1] in dequantized} == inside
    assert all(any(f"/{layer}/" in name for layer in layers) for name in inside)


def test_the_accuracy_is_of_the_delivered_file(made, digits_data):
    out, summary = made
    file = out / "students" / summary.student / "model.onnx"
    metric = evaluate_module(FileNetwork(file), digits_data.test, Classification()).metric
    assert summary.student_accuracy == pytest.approx(metric)


def test_the_student_loads_as_a_network_of_floats(made):
    out, summary = made
    network = lana.load_student(out / "students" / summary.student)
    assert network(torch.randn(2, 1, 16, 16)).shape == (2, 10)


def test_the_teacher_in_int8_is_told_beside_it(made):
    _, summary = made
    assert 0 < summary.int8_alone["ratio"] < 3
    assert summary.int8_alone["metric"] > 0.9


def test_searches_are_compared_with_what_is_got_without_the_program(made):
    out, _ = made
    found = {one.method: one for one in compare_searches(out, "0.4x", quiet=True).found}
    assert {"every layer int8", "structure, then int8", "fp32 only"} <= found.keys()
