"""What is decided from a teacher's module follows from its structure: a student is built again without its weights."""

import pytest
import torch
from torch import nn

from lana.networks.layers import Layer
from lana.operations.base import ends_in_relu
from lana.operations.derived import gates
from lana.operations.heads import attentions


class Gated(nn.Module):
    """A residual block with squeeze-excite, its last normalisation's gain at zero as timm makes it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.se = Gate()
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        return torch.relu(x + self.se(self.norm(self.conv(x))))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Attention(nn.Module):
    """As others write it, at another scale, its projection at zero."""

    def __init__(self, scale):
        super().__init__()
        self.qkv, self.proj, self.num_heads, self.scale = nn.Linear(8, 24), nn.Linear(8, 8), 2, scale
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def layer(shape, layout):
    return Layer(name="it", input_shape=shape, output_shape=shape, layout=layout, macs=1, members=("it",))


@pytest.fixture
def as_made_and_trained():
    def both(make):
        made, trained = make(), make()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.normal_(0.3, 1.0)
        return made, trained

    return both


def test_gates_behind_a_zero_normalisation_are_found(as_made_and_trained):
    made, trained = as_made_and_trained(Gated)
    assert gates.__wrapped__(layer((8, 6, 6), "nchw"), made) == ()  # by its own weights it would not be seen
    for module in (made, trained):
        assert gates(layer((8, 6, 6), "nchw"), module) == ("se",)


def test_a_map_of_zeros_does_not_end_in_a_relu(as_made_and_trained):
    def nothing():
        conv = nn.Conv2d(8, 8, 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
        return nn.Sequential(conv)

    for module in as_made_and_trained(nothing):
        assert not ends_in_relu(layer((8, 6, 6), "nchw"), module)
    for module in as_made_and_trained(Gated):
        assert ends_in_relu(layer((8, 6, 6), "nchw"), module)


@pytest.mark.parametrize(("scale", "plain"), [(0.5, True), (0.1, False)])
def test_attention_at_another_scale_is_not_plain(as_made_and_trained, scale, plain):
    for module in as_made_and_trained(lambda: nn.Sequential(Attention(scale))):
        assert attentions(layer((5, 8), "ntc"), module) == (("0",) if plain else ())
