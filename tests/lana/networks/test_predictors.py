"""The last predictors: found behind activations and decoding, in each branch."""

import torch
from torch import nn

from lana.networks.layers import find_layers
from lana.networks.predictors import last_predictors


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.boxes = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 1))
        self.classes = nn.Sequential(nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32))
        self.mean = nn.Conv2d(16, 1, 1, bias=False)
        self.queries = nn.Linear(32, 7)

    def forward(self, x):
        x = self.stem(x)
        sides = self.boxes(x).unflatten(1, (16, 4)).flatten(2)
        side = self.mean(sides.softmax(1).unsqueeze(3)).squeeze(3)
        return {"sides": side, "scores": self.classes(x).sigmoid(), "other": [self.queries(x.mean((2, 3)))]}


def test_each_branch_has_one():
    assert last_predictors(Head(), torch.zeros(1, 3, 8, 8)) == ["boxes.2", "classes.0", "mean", "queries"]


def test_layers_that_hold_one_are_left_out_with_the_reason():
    network, example = Head(), (torch.zeros(1, 3, 8, 8),)
    predictors = last_predictors(network, example[0])
    scan = find_layers(network, example, predictors=predictors)
    assert [layer.name for layer in scan.layers] == ["stem", "boxes.0"]
    reasons = {part.name: part.reason for part in scan.skipped}
    assert reasons["classes"].startswith("holds a last predictor")
    assert {layer.name for layer in find_layers(network, example).layers} >= {"stem", "boxes.2", "classes"}
