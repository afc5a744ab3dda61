"""Blocks of several arguments: those that never change are kept with the block, and blocks of others are skipped."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_parity
from lana.models.student import assemble, own_module
from lana.models.student_files import load_student, save_student
from lana.models.teacher import load_teacher
from lana.networks.constant_arguments import (
    WithConstantArguments,
    copy_with_constant_arguments,
    keep_constant_arguments,
    observed_calls,
    of_one_tensor,
)
from lana.networks.features import captured, forward_until
from lana.networks.layers import find_layers
from lana.networks.surgery import switched
from lana.operations.presets import offered

NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x, rotary, mask=None):
        cosine, sine = rotary
        turned = x * cosine + x.flip(-1) * sine
        return x + self.down(torch.relu(self.up(turned)))


class InATuple(Block):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs), None


class Network(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.blocks = nn.ModuleList([InATuple() if kind == "in a tuple" else Block() for _ in range(3)])
        self.gate, self.kind = nn.Linear(16, 16), kind
        nn.init.zeros_(self.gate.weight)
        self.register_buffer("angles", torch.linspace(0, 1, 8 * 16).view(8, 16), persistent=False)

    def forward(self, x):
        cosine, sine = self.angles.cos(), self.angles.sin()
        if self.kind == "for each example":
            cosine, sine = (t.expand(len(x), 8, 16).contiguous() for t in (cosine, sine))
        if self.kind == "what follows from x":
            cosine = cosine * x.mean(1, keepdim=True)
        if self.kind == "what follows from x by weights that are zero":
            cosine = cosine + self.gate(x)
        if self.kind == "what is true of x":
            cosine = cosine * (x.mean() > 0.1)
        for block in self.blocks:
            x = block(x, rotary=(cosine, sine), mask=None)
            x = x[0] if self.kind == "in a tuple" else x
        return x.mean(1)


def network(kind):
    torch.manual_seed(0)
    return Network(kind.replace("_", " "))
"""


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return lambda kind: load_teacher(
        f"{file}:network", model_args=f"kind={kind.replace(' ', '_')}", input_shape=(8, 16)
    )


@pytest.mark.parametrize("kind", ["the same always", "for each example", "in a tuple"])
def test_constant_arguments_are_kept_with_the_block(kind, load, tmp_path):
    teacher = load(kind)
    scan = find_layers(teacher.module, (teacher.example(),), max_span=2)
    assert [layer.name for layer in scan.layers] == ["blocks.0", "blocks.1", "blocks.2"]
    assert len(scan.spans) == 2
    own = own_module(teacher.module, scan.layers[0])
    assert isinstance(own, WithConstantArguments)
    assert {"teacher", "identity", "pruned_w0.5", "low_rank_r0.5", "mlp_w0.25"} <= {
        operation.name for operation in offered(scan.layers[0], own, "default")
    }
    selection = {"blocks.0": "identity", "blocks.1": "pruned_w0.5", "blocks.2": "low_rank_r0.25"}
    student = assemble(teacher.module, scan.layers, selection)
    save_student(student, tmp_path / "student", teacher, scan.layers, selection)
    x = torch.randn(3, 8, 16)
    with torch.no_grad():
        expected = student(x)
        assert torch.equal(load_student(tmp_path / "student")(x), expected)
    assert onnx_parity(student, export_onnx(student, x, tmp_path / "s.onnx"), [x]) < 1e-5
    with torch.no_grad():  # at full rank it is the block, with what it was kind
        whole = assemble(teacher.module, scan.layers, {"blocks.1": "low_rank_r1"})
        assert torch.allclose(whole(x), teacher.module(x), atol=1e-5)
        expected = teacher.module(x)
        own = own_module(teacher.module, scan.layers[1])
        with switched(teacher.module, ["blocks.1"]) as switches:  # as it is when operations are scored
            switches["blocks.1"].instead = own
            assert torch.equal(teacher.module(x), expected)
        with captured(teacher.module, scan.layers[1:2]) as features:
            forward_until(teacher.module, x)
        inputs, outputs = features["blocks.1"]
        assert torch.equal(own(inputs), outputs)
        skipped = assemble(teacher.module, scan.spans[:1], {scan.spans[0].name: "merged_w1"})
        assert skipped(x).shape == expected.shape


@pytest.mark.parametrize(
    "kind", ["what follows from x", "what follows from x by weights that are zero", "what is true of x"]
)
def test_arguments_that_follow_from_the_input_are_not_kept(kind, load):
    teacher = load(kind)
    scan = find_layers(teacher.module, (teacher.example(),))
    assert not any(layer.name in ("blocks.0", "blocks.1", "blocks.2") for layer in scan.layers)
    assert all(type(own_module(teacher.module, layer)) is nn.Linear for layer in scan.layers)
    assert all(parameter.requires_grad for parameter in teacher.module.parameters())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x, scales):
        return self.inner(x) * scales[0]


class TwoBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.other = Scaled(), Scaled()

    def forward(self, x):
        scales = [torch.full((1, 4), 2.0), "unused"]
        return self.other(self.block(x, scales), scales)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_of_a_block_keep_its_constant_arguments(copied):
    network, x = TwoBlocks().eval(), torch.randn(3, 4)
    before = dict(vars(network.block))
    with torch.no_grad(), observed_calls(network) as calls:
        network(x[:1])
    keep_constant_arguments(network, x[:1], calls)
    assert vars(network.block) == before  # nothing is left on a user's module
    own = copied(of_one_tensor(network.block))
    assert isinstance(own, WithConstantArguments)
    assert torch.equal(own(x), 2 * network.block.inner(x))
    assert isinstance(of_one_tensor(own.module), WithConstantArguments)
    student = copy_with_constant_arguments(network)
    assert [layer.name for layer in find_layers(student, (x,)).layers] == ["block", "other"]
