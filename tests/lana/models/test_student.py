"""Assembling, saving, loading and exporting a student."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from safetensors import SafetensorError
from torch import nn

from lana.cli import main
from lana.common.importing import trust_code
from lana.errors import UserError
from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_parity, relative_error
from lana.exporters.torch_export import export_program
from lana.models.student import assemble, build_operation
from lana.models.student_files import load_student, save_student
from lana.models.teacher import load_teacher
from lana.networks.layers import find_layers
from lana.operations.presets import offered


@pytest.fixture
def selection():
    return {"blocks.1": "identity", "blocks.3": "linear_k1", "blocks.6": "pruned_w0.5", "blocks.12": "cb_stack_k3_w0.5"}


@pytest.fixture
def student(digits_teacher, digits_scan, selection):
    torch.manual_seed(0)
    return assemble(digits_teacher.module, digits_scan.layers, selection)


def test_the_teacher_reassembled_is_the_teacher(digits_teacher, digits_scan):
    again = assemble(digits_teacher.module, digits_scan.layers, {})
    x = digits_teacher.example(4)
    with torch.no_grad():
        assert torch.equal(again(x), digits_teacher.module(x))


def test_the_teacher_is_not_touched(digits_teacher, digits_scan, student):
    before = {name: value.clone() for name, value in digits_teacher.module.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in digits_teacher.module.state_dict().items())


def test_a_trained_operation_is_copied_in(digits_teacher, digits_scan):
    layer = next(layer for layer in digits_scan.layers if layer.name == "blocks.3")
    trained = build_operation(layer, digits_teacher.module, "linear_k1")
    student = assemble(digits_teacher.module, [layer], {"blocks.3": "linear_k1"}, {("blocks.3", "linear_k1"): trained})
    inside = student.get_submodule("blocks.3")
    assert inside is not trained
    assert all(torch.equal(a, b) for a, b in zip(inside.parameters(), trained.parameters(), strict=True))


def test_what_is_saved_is_loaded(digits_teacher, digits_scan, student, selection, tmp_path):
    save_student(student, tmp_path, digits_teacher, digits_scan.layers, selection)
    loaded = load_student(tmp_path)
    x = digits_teacher.example(4)
    with torch.no_grad():
        assert torch.equal(loaded(x), student(x))
    loss = loaded.train()(x).square().mean()
    loss.backward()  # it trains like any other
    assert all(p.grad is not None for p in loaded.parameters())


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_damaged_student_is_told(digits_teacher, digits_scan, student, selection, tmp_path, damage):
    save_student(student, tmp_path, digits_teacher, digits_scan.layers, selection)
    weights = tmp_path / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        (tmp_path / "architecture.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.safetensors|architecture\.json"):
        load_student(tmp_path)


def test_a_full_disk_is_an_error_of_the_system(digits_teacher, digits_scan, student, selection, tmp_path, monkeypatch):
    def full(module, path):  # as safetensors tells it
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("lana.models.student_files.save_model", full)
    with pytest.raises(OSError, match=r"No space left on device.*\.safetensors"):
        save_student(student, tmp_path, digits_teacher, digits_scan.layers, selection)


def test_onnx_gives_what_pytorch_gives(digits_teacher, student, tmp_path):
    example = digits_teacher.example()
    assert onnx_parity(student, export_onnx(student, example, tmp_path / "s.onnx"), [example]) < 1e-5


def test_a_batch_of_any_size_on_request(digits_teacher, student, tmp_path):
    import onnxruntime

    path = export_onnx(student, digits_teacher.example(2), tmp_path / "s.onnx", dynamic_batch=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = digits_teacher.example(7)
    (found,) = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, student(x).numpy(), atol=1e-4)


def test_a_program_of_torch_export(digits_teacher, student, tmp_path):
    path = export_program(student, digits_teacher.example(), tmp_path / "s.pt2")
    x = digits_teacher.example()
    with torch.no_grad():
        assert torch.allclose(torch.export.load(path).module()(x), student(x), atol=1e-5)


ENCODER = """
from torch import nn

def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 3)
"""


@pytest.mark.parametrize("granularity", ["block", "fine"])
@pytest.mark.parametrize("grad", [False, True])
def test_a_student_of_pytorchs_own_transformer_runs(granularity, grad, tmp_path):
    """Its blocks are told of masks, and in evaluation would read the weights of their parts."""
    (tmp_path / "net.py").write_text(ENCODER)
    teacher, x = load_teacher(f"{tmp_path / 'net.py'}:encoder", input_shape=(5, 16)).module, torch.randn(2, 5, 16)
    scan = find_layers(teacher, (x,), granularity=granularity)
    blocks = ["layers.1", "layers.2"] if granularity == "block" else []
    assert {*blocks, "layers.0.linear1"} <= {layer.name for layer in scan.layers}
    student = assemble(teacher, scan.layers, {layer.name: "linear_k1" for layer in scan.layers})
    with torch.set_grad_enabled(grad):
        output = student(x)
    assert output.shape == (2, 5, 16)
    assert onnx_parity(student, export_onnx(student, x[:1], tmp_path / "m.onnx"), [x[:1]]) < 1e-4
    program = torch.export.load(export_program(student, x, tmp_path / "m.pt2")).module()
    assert torch.allclose(program(x), output, atol=1e-5)


def test_operations_of_pytorchs_own_block_run_in_evaluation(tmp_path):
    (tmp_path / "net.py").write_text(ENCODER)
    teacher, x = load_teacher(f"{tmp_path / 'net.py'}:encoder", input_shape=(5, 16)).module, torch.randn(2, 5, 16)
    layer = next(layer for layer in find_layers(teacher, (x,)).layers if layer.name == "layers.1")
    operations = [one.name for one in offered(layer, teacher.layers[1], "all")]
    assert {"fewer_heads_h0.5", "low_rank_r0.5", "pruned_w0.5"} <= set(operations)
    with torch.no_grad():
        for operation in operations:
            assert build_operation(layer, teacher, operation).eval()(x).shape == x.shape


def test_a_layer_may_be_called_by_name():
    class Network(nn.Sequential):
        def forward(self, x):
            return self[2](hidden=self[1](hidden=self[0](x), mask=None))

    class Block(nn.Conv2d):
        def forward(self, hidden, mask=None):
            return hidden + super().forward(hidden)

    teacher = Network(nn.Conv2d(3, 4, 1), Block(4, 4, 3, padding=1), Block(4, 4, 3, padding=1)).eval()
    x = torch.randn(2, 3, 6, 6)
    scan = find_layers(teacher, (x,))
    assert [layer.name for layer in scan.layers] == ["0", "1", "2"]
    with torch.no_grad():
        skipped = assemble(teacher, scan.layers, {"1": "identity", "2": "identity"})(x)
        assert torch.equal(skipped, teacher[0](x))


@dataclass
class Found:
    logits: torch.Tensor
    features: torch.Tensor


def test_outputs_in_a_record_of_the_networks_own_are_exported(tmp_path):
    class Network(nn.Conv2d):
        def forward(self, x):
            return Found(super().forward(x).mean((2, 3)), x)

    network, x = Network(3, 4, 3).eval(), torch.randn(1, 3, 8, 8)
    assert onnx_parity(network, export_onnx(network, x, tmp_path / "m.onnx"), [x]) < 1e-4
    logits, features = torch.export.load(export_program(network, x, tmp_path / "m.pt2")).module()(x)
    assert torch.allclose(logits, network(x).logits, atol=1e-5)
    assert torch.equal(features, x)


def test_a_file_has_no_loop_where_the_network_has_none(tmp_path):
    """Shapes that one exporter loses sight of become loops, which ONNX Runtime refuses behind a squeeze."""

    class Split(nn.Module):
        def forward(self, x):
            first, others = torch.tensor_split(x, (1,), dim=1)
            return torch.cat([others, first.squeeze(1).unsqueeze(1)], 1)

    x = torch.randn(2, 5, 8)
    path = export_onnx(Split(), x, tmp_path / "s.onnx")
    assert not {node.op_type for node in onnx.load(path).graph.node} & {"If", "Loop"}
    assert onnx_parity(Split(), path, [x]) == 0


def test_behind_a_skipped_layer_code_may_work_in_place():
    teacher = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)
    )
    example = torch.randn(2, 3, 8, 8)
    student = assemble(teacher, find_layers(teacher, (example,)).layers, {"2": "identity"})
    student.train()(example).sum().backward()  # the Sigmoid's output is what its gradient needs
    assert student[0].weight.grad.abs().sum() > 0


def test_outputs_that_are_no_numbers_are_compared_too():
    class Sure(nn.Module):
        def forward(self, x):
            return x, x > 0, x[:0]

    example = torch.tensor([[1.0, -2.0]])
    assert relative_error(Sure(), example, [output.numpy() for output in Sure()(example)]) == 0
    assert relative_error(Sure(), example, [example.numpy(), np.array([[True, True]]), example[:0].numpy()]) == 1


class Several(nn.Module):
    """Numbers, and an infinity such as masks hold; once there is no number in either."""

    def __init__(self, broken=()):
        super().__init__()
        self.broken = broken

    def forward(self, x):
        outputs = [x * 2, x.masked_fill(x > 0, -math.inf), x + 1]
        return {"a": outputs[0], "b": [x * math.nan if i in self.broken else outputs[i] for i in (1, 2)]}


@pytest.mark.parametrize("broken", [(1,), (2,), (1, 2)])
def test_a_file_that_gives_no_number_is_told(tmp_path, broken):
    example = torch.linspace(-1, 1, 6).view(1, 6)
    file = export_onnx(Several(), example, tmp_path / "s.onnx")
    assert onnx_parity(Several(), file, [example]) < 1e-6
    assert onnx_parity(Several(broken), export_onnx(Several(broken), example, tmp_path / "b.onnx"), [example]) < 1e-6
    assert math.isnan(onnx_parity(Several(), tmp_path / "b.onnx", [example, example]))


def test_outputs_are_named_in_order_and_leave_the_batch_open(tmp_path):
    export_onnx(Several(), torch.ones(2, 6), tmp_path / "s.onnx", dynamic_batch=True)
    outputs = onnx.load(tmp_path / "s.onnx").graph.output
    assert [output.name for output in outputs] == ["output", "output_1", "output_2"]
    assert {output.type.tensor_type.shape.dim[0].dim_param for output in outputs} == {"batch"}


def test_a_student_with_code_in_its_folder_runs_it_only_where_it_is_trusted(tmp_path, digits_teacher):
    folder, ran = tmp_path / "students" / "x", tmp_path / "ran"
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(
        f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nfrom lana.models.bundled import DigitsResNet as build\n"
    )
    own = dataclasses.replace(digits_teacher, reference=f"{folder / 'net.py'}:build")
    save_student(own.module, folder, own, [], {})
    refused = CliRunner().invoke(main, ["evaluate", str(folder), "--data", "digits"])
    assert refused.exit_code == 2
    assert "net.py lies within" in refused.output
    assert "--trust" in refused.output
    assert not ran.exists()
    trusted = CliRunner().invoke(main, ["evaluate", str(folder), "--data", "digits", "--trust"])
    assert trusted.exit_code == 0, trusted.output
    with trust_code():
        assert load_student(folder)
