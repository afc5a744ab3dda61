"""Keys: equal for what runs equally fast, whatever the weights; different for anything that decides the speed."""

import pytest
import torch
from torch import nn

from lana.networks.structure import structure, structure_key

X = (torch.randn(1, 8, 12, 12),)


def block(channels=8, kernel=3, *, bias=False, activation=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(8, channels, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(channels),
        activation(),
        nn.Conv2d(channels, 8, 1),
    ).eval()


def test_keys_ignore_weights_and_paths():
    one, other = block(), block()
    holder = nn.Module()
    holder.inner = other
    assert structure_key(one, X) == structure_key(holder.inner, X)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3.0)
    assert structure_key(one, X) == structure_key(other, X)


@pytest.mark.parametrize(
    "changed",
    [
        lambda: block(channels=16),
        lambda: block(kernel=5),
        lambda: block(bias=True),
        lambda: block(activation=nn.GELU),
        lambda: block().double(),
        lambda: nn.Sequential(block(), block()).eval(),
    ],
)
def test_keys_tell_modules_of_another_speed_apart(changed):
    module = changed()
    example = (X[0].to(next(module.parameters()).dtype),)
    assert structure_key(module, example) != structure_key(block(), X)


def test_keys_tell_shapes_apart():
    assert structure_key(block(), X) != structure_key(block(), (torch.randn(1, 8, 14, 14),))
    assert structure_key(block(), X) != structure_key(block(), (torch.randn(2, 8, 12, 12),))


def test_keys_tell_topologies_apart():
    class Apart(nn.Module):
        def __init__(self, *, crossed):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.crossed = crossed

        def forward(self, x):
            y = self.a(x)
            return y + self.b(y if self.crossed else x)

    assert structure_key(Apart(crossed=True), X) != structure_key(Apart(crossed=False), X)


def test_columns_equal_those_by_hand():
    _, columns = structure(nn.Conv2d(8, 16, 3, padding=1).eval(), X)
    assert columns["parameters"] == 16 * 8 * 9 + 16
    assert columns["macs"] == 16 * 8 * 9 * 12 * 12
    assert columns["weight_bytes"] == 4 * columns["parameters"]


def test_activations_leave_out_operators_that_runtimes_fold():
    wide = nn.Sequential(nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 4, 1)).eval()
    _, columns = structure(wide, X)
    assert columns["activations"] == (32 + 4) * 12 * 12
    assert columns["operators"] == 2


def test_looking_changes_nothing():
    module = block().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    structure_key(module, X)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_another_precision_has_another_key():
    assert structure_key(block(), X, "fp32") == structure_key(block(), X)
    assert structure_key(block(), X, "int8") != structure_key(block(), X)
