"""Identity is offered where something passes a block's weights, and keeps the order that channels pass in."""

import pytest
import torch
from torch import nn

from lana.networks.layers import Layer
from lana.operations.presets import offered, reasons
from lana.operations.shortcut import NO_SHORTCUT, Reorder, Skip, identity, passed_on


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.work = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, x):
        return torch.relu(x + self.work(x))


class Halves(nn.Module):
    """ShuffleNetV2's unit: channels are dealt out before (as even and odd ones), or mixed behind."""

    def __init__(self, *, before):
        super().__init__()
        self.before, self.work = before, nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x):
        passed, worked = x.unflatten(1, (-1, 2)).unbind(2) if self.before else x.chunk(2, 1)
        out = torch.cat((passed, self.work(worked)), 1)
        return out if self.before else out.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)


class Afterwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.work, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + self.work(x))


PLACE = Layer(name="unit", input_shape=(8, 6, 6), output_shape=(8, 6, 6), layout="nchw", macs=1, members=("unit",))
TOKENS = Layer(name="unit", input_shape=(6, 8), output_shape=(6, 8), layout="ntc", macs=1, members=("unit",))


@pytest.mark.parametrize(
    ("module", "place", "order"),
    [
        (Added(), PLACE, ()),
        (Afterwards(), TOKENS, ()),
        (Halves(before=True), PLACE, (0, 2, 4, 6, 1, 3, 5, 7)),
        (Halves(before=False), PLACE, (0, 4, 1, 5, 2, 6, 3, 7)),
        (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()), PLACE, None),
        (nn.Linear(8, 8), TOKENS, None),
    ],
)
def test_the_order_that_passes(module, place, order):
    assert passed_on(place, module.eval()) == order
    found = {operation.name for operation in offered(place, module, "identity")}
    assert ("identity" in found) == (order is not None)
    if order is None:
        why = {operation.name: reason for operation, reason in reasons(place, module, "identity").items()}
        assert why["identity"] == NO_SHORTCUT
    built = identity(place, module, {})
    assert isinstance(built, Reorder if order else Skip)


@pytest.mark.parametrize("before", [True, False])
def test_what_is_skipped_is_the_work_alone(before):
    module = Halves(before=before).eval()
    skipped = identity(PLACE, module, {})
    module.work = nn.Identity()
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(skipped(x), module(x))
    assert not skipped.state_dict()
