"""A head that serves every level of a pyramid is one layer, measured at each of its shapes."""

import pytest
import torch
from torch import nn

from lana.models.student import assemble
from lana.models.teacher import Teacher
from lana.networks.features import captured, forward_until
from lana.networks.layers import Layer, find_layers
from lana.networks.repeated import AtShapes
from lana.operations.families import parse_operation
from lana.pool.builder import Builder


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.tower = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Conv2d(16, 6, 1)

    def forward(self, x):
        x = self.stem(x)
        levels = [x, nn.functional.avg_pool2d(x, 2), nn.functional.avg_pool2d(x, 4)]
        return [self.last(self.tower(level)) for level in levels]


@pytest.fixture(scope="module")
def teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Pyramid().eval()
    return Teacher(module=module, reference="pyramid", weights=None, input_shape=(3, 16, 16), preprocessing=None)


def test_it_is_one_layer_with_the_work_of_all_calls(teacher):
    scan = find_layers(teacher.module, (teacher.example(),), max_span=3)
    tower = next(layer for layer in scan.layers if layer.name == "tower.0")
    assert tower.input_shape == (16, 16, 16)
    assert tower.other_shapes == ((16, 8, 8), (16, 4, 4))
    assert tower.macs == 16 * 16 * 9 * (256 + 64 + 16)
    assert not scan.spans
    assert Layer.from_json(vars(tower)) == tower


def test_it_is_measured_at_each_of_its_shapes(teacher, tmp_path):
    scan = find_layers(teacher.module, (teacher.example(),))
    tower = next(layer for layer in scan.layers if layer.name == "tower.0")
    builder = Builder(teacher, batch=1, folder=tmp_path)
    own, half = (builder.candidate(tower, parse_operation(name)) for name in ("teacher", "cb_bottle_k3_w0.5"))
    assert own.macs == tower.macs
    assert 0 < half.macs < own.macs
    assert set(builder.computations) == {own.key, half.key}
    rows = AtShapes(teacher.module.tower[0], (tower.input_shape, *tower.other_shapes))
    maps = [torch.randn(2, *shape) for shape in rows.shapes]
    with torch.no_grad():
        together = rows(torch.cat([one.flatten(1) for one in maps], 1))
        apart = torch.cat([teacher.module.tower[0](one).flatten(1) for one in maps], 1)
    torch.testing.assert_close(together, apart)


def test_it_is_replaced_in_all_calls_and_distilled_on_the_first(teacher):
    scan = find_layers(teacher.module, (teacher.example(),))
    student = assemble(teacher.module, scan.layers, {"tower.0": "linear_k1"})
    calls = []
    student.tower[0].register_forward_hook(lambda _, args, __: calls.append(tuple(args[0].shape[2:])))
    with torch.no_grad():
        outputs = student(teacher.example())
        with captured(teacher.module, scan.layers) as features:
            forward_until(teacher.module, teacher.example())
    assert calls == [(16, 16), (8, 8), (4, 4)]
    assert [output.shape[2:] for output in outputs] == [(16, 16), (8, 8), (4, 4)]
    assert features["tower.0"][0].shape == (1, 16, 16, 16)
    assert features["tower.0"][1].shape == (1, 16, 16, 16)
