"""Networks whose training mode returns something else: only normalisation and dropout are in training mode."""

import pytest
import torch
from torch import nn

from lana.networks.training_mode import begin_training, trains_alike


class Detector(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.body = kind, nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, x, targets=None):
        x = self.body(x)
        if not self.training or self.kind == "alike":
            return {"maps": x}
        if self.kind == "targets":
            raise ValueError("targets should not be None in training mode")
        return {"loss": x.mean()} if self.kind == "loss" else [x, x]


@pytest.mark.parametrize("kind", ["alike", "loss", "heads", "targets"])
def test_the_form_of_the_outputs_decides(kind):
    network, inputs = Detector(kind).eval(), torch.zeros(2, 3, 4, 4)
    kept = torch.random.get_rng_state()
    whole = trains_alike(network, inputs)
    assert whole == (kind == "alike")
    assert torch.equal(torch.random.get_rng_state(), kept)
    assert not any(part.training for part in network.modules())
    begin_training(network, whole=whole)
    assert network.training == whole
    assert [part.training for part in network.body] == ([True] * 3 if whole else [False, True, True])
    assert set(network(inputs)) == {"maps"}
