"""Watching and replacing parts of a network: what is captured is what ran, and afterwards nothing is changed."""

import pytest
import torch
from torch import nn

from lana.data.loading import load_data
from lana.networks.features import captured, forward_until, replayable
from lana.networks.layers import find_layers
from lana.networks.surgery import switched
from lana.training.batchnorm import reestimate_batchnorm


class InPlace(nn.Module):
    """Works in place on what its blocks give, as many networks do."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.later_calls = 0
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.one(x)
        x += 1.0
        x = torch.relu_(self.two(x))
        x = self.three(x)
        self.later_calls += 1
        return self.head(x.mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return InPlace().eval()


X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def test_captured_features_are_copies_of_inputs_and_outputs(network):
    layers = [layer for layer in find_layers(network, (X,)).layers if layer.name in ("one", "two")]
    before = network.later_calls
    with captured(network, layers) as features, torch.no_grad():
        forward_until(network, X)
    with torch.no_grad():
        one = network.one(X)
    assert torch.equal(features["one"][0], X)
    assert torch.equal(features["one"][1], one)  # without the 1.0 that was added in place
    assert torch.equal(features["two"][0], one + 1.0)
    assert network.later_calls == before  # nothing ran behind the last layer
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_switch_replays_the_layers_before(network):
    layers = find_layers(network, (X,)).layers
    with torch.no_grad():
        expected, zero = network(X), nn.Identity()
        order = replayable(network, layers, X)
        assert order == ["one", "two", "three", "head"]
        with switched(network, ["one", "two", "three"]) as switches:
            for name in ("one", "two"):
                switches[name].record()
            assert torch.equal(network(X), expected)
            for name in ("one", "two"):
                switches[name].replay(copy=name == "two")
            for _ in range(3):  # in-place work must not spoil what is replayed
                assert torch.equal(network(X), expected)
            switches["three"].instead = zero
            skipped = network(X)
            assert not torch.equal(skipped, expected)
        assert torch.equal(network(X), expected)
    by_hand = torch.relu(network.two(network.one(X) + 1.0))
    assert torch.allclose(skipped, network.head(by_hand.mean((2, 3))), atol=1e-6)


def test_batchnorm_takes_the_statistics_of_the_data(digits_teacher):
    split = load_data("digits", digits_teacher).train
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()
    weight = module[1].weight.detach().clone()
    assert reestimate_batchnorm(module, split, images=200, batch_size=50) == 1
    chosen = split.subset(200)
    with torch.no_grad():
        outputs = torch.cat([module[0](inputs) for inputs, _ in chosen.batches(200)])
    assert torch.allclose(module[1].running_mean, outputs.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(module[1].running_var, outputs.var((0, 2, 3)), rtol=0.05)
    assert torch.equal(module[1].weight, weight)
    assert not any(part.training for part in module.modules())
    assert module[1].momentum == 0.1


def test_a_network_without_batchnorm_is_left_alone(digits_teacher):
    split = load_data("digits", digits_teacher).train
    assert reestimate_batchnorm(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), split) == 0


class AsksItsStem(nn.Module):
    """As a network of Hugging Face's does, for the type to compute in."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.block(self.stem(x.to(self.stem.weight.dtype)))


def test_externally_referenced_layers_are_not_replayed():
    network, example = AsksItsStem().eval(), torch.randn(1, 3, 8, 8)
    layers = find_layers(network, (example,), exclude=["stem"]).layers
    assert [layer.name for layer in layers] == ["block"]
    assert replayable(network, layers, example) == ["block"]
