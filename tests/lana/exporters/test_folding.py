"""Exported graphs: nothing left to fold, the same outputs, nodes named by their modules."""

import onnx
import pytest
import torch
from onnxruntime.quantization import quant_pre_process
from torch import nn
from torch.nn import functional as F

from lana.exporters import onnx_export
from lana.exporters.folding import FOLDED, foldable, module_path
from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_parity


class Same(nn.Conv2d):
    """Padding computed from the shape of the input, as timm's layers of TensorFlow's networks do it."""

    def forward(self, x):
        height, width = (max(((n + 1) // 2 - 1) * 2 + 3 - n, 0) for n in x.shape[-2:])
        x = F.pad(x, [width // 2, width - width // 2, height // 2, height - height // 2])
        return F.conv2d(x, self.weight, self.bias, stride=2)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(Same(3 if i == 0 else 8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()) for i in range(2)
        )
        self.head_1 = nn.Linear(8, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        scale = torch.arange(x.shape[1], dtype=x.dtype).reshape(1, -1, 1, 1) / x.shape[2]
        return self.head_1((x * scale).mean((2, 3)))


class Record(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Padded()

    def forward(self, x):
        return {"logits": self.body(x)}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Padded().eval()


EXAMPLE = torch.randn(1, 3, 17, 16)
NAMES = {"layers.0.0", "layers.1.0", "head_1"}


@pytest.mark.parametrize("exporter", ["traced", "captured"])
def test_a_static_graph_has_nothing_to_fold_and_names_its_modules(network, exporter, tmp_path, monkeypatch):
    if exporter == "captured":
        monkeypatch.setattr(onnx_export, "_traced", lambda *_, **__: b"")
        monkeypatch.setattr(onnx_export, "_operators", lambda content: {"Loop"})
    path = export_onnx(network, EXAMPLE, tmp_path / "net.onnx")
    model = onnx.load(str(path))
    assert foldable(model) == []
    assert onnx_parity(network, path, [EXAMPLE]) < 1e-5
    assert sorted({node.domain for node in model.graph.node} | {entry.domain for entry in model.opset_import}) == [""]
    modules = {name for name, _ in network.named_modules()}
    weighted = {module_path(node.name) for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert weighted == NAMES
    assert {module_path(node.name) for node in model.graph.node} <= modules
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert not any(node.metadata_props for node in model.graph.node)
    assert model.producer_version == torch.__version__.partition("+")[0] + FOLDED


def test_a_quantizer_prepares_it_without_skipping_a_step(network, tmp_path):
    path = export_onnx(network, EXAMPLE, tmp_path / "net.onnx")
    quant_pre_process(str(path), str(tmp_path / "prepared.onnx"))
    assert onnx_parity(network, tmp_path / "prepared.onnx", [EXAMPLE]) < 1e-5


def test_an_open_batch_stays_open(network, tmp_path):
    path = export_onnx(network, torch.randn(2, 3, 17, 16), tmp_path / "net.onnx", dynamic_batch=True)
    assert onnx_parity(network, path, [torch.randn(n, 3, 17, 16) for n in (1, 3)]) < 1e-5


def test_a_wrapper_for_the_outputs_is_in_no_name(tmp_path):
    path = export_onnx(Record().eval(), EXAMPLE, tmp_path / "net.onnx")
    names = {module_path(node.name) for node in onnx.load(str(path)).graph.node if node.op_type == "Conv"}
    assert names == {"body.layers.0.0", "body.layers.1.0"}


def test_foldable_nodes_are_those_that_depend_on_no_input():
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor("two", onnx.TensorProto.FLOAT, [1], [2.0])
    nodes = [
        node("Constant", [], ["one"], name="constant", value_float=1.0),
        node("Add", ["one", "two"], ["three"], name="sum"),
        node("Mul", ["x", "three"], ["y"], name="product"),
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [], [], [tensor])
    assert foldable(onnx.helper.make_model(graph)) == ["constant", "sum"]


class Normalised(nn.Module):
    """Reductions whose axes are inputs of newer opsets, which the quantizer's shape inference does not read."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        x = F.normalize(self.conv(x), dim=1)
        return x / x.amax((2, 3), keepdim=True)


def test_reductions_are_prepared_too(tmp_path):
    network = Normalised().eval()
    path = export_onnx(network, EXAMPLE, tmp_path / "net.onnx")
    quant_pre_process(str(path), str(tmp_path / "prepared.onnx"))
    assert onnx_parity(network, tmp_path / "prepared.onnx", [EXAMPLE]) < 1e-5
    asked = export_onnx(network, EXAMPLE, tmp_path / "asked.onnx", opset=18)
    assert [onnx.load(str(file)).opset_import[0].version for file in (path, asked)] == [17, 18]


class Bounded(nn.Module):
    def forward(self, x):
        return torch.minimum(torch.maximum(x, torch.tensor(-0.5)), torch.tensor(0.5))


def test_a_file_lacks_nothing_that_its_nodes_read(tmp_path):
    path = export_onnx(Bounded().eval(), EXAMPLE, tmp_path / "net.onnx")
    assert onnx_parity(Bounded(), path, [EXAMPLE]) < 1e-6
