"""Layouts: the axis of the channels is found for images, sequences and volumes."""

import pytest
import torch
from kinds_of_layer import Block
from torch import nn

from lana.networks.layers import find_layers


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


@pytest.mark.parametrize("size", [(6, 5), (7, 7), (8, 8)])
def test_channels_of_an_image_are_found(size):
    """Also where the sides are as long as there are channels."""
    last = find_layers(nn.Sequential(ChannelsLast(), ChannelsLast()), (torch.randn(1, *size, 8),))
    assert [(layer.name, layer.layout) for layer in last.layers] == [("0", "nhwc"), ("1", "nhwc")]
    first = find_layers(nn.Sequential(Block(8, 8), Block(8, 8)), (torch.randn(1, 8, *size),))
    assert [(layer.name, layer.layout) for layer in first.layers] == [("0", "nchw"), ("1", "nchw")]


@pytest.mark.parametrize("size", [8, 12])
def test_channels_of_a_sequence_are_found(size):
    first = find_layers(nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU()), (torch.randn(1, 8, size),))
    assert [layer.layout for layer in first.layers] == ["ncl"]
    last = find_layers(nn.Sequential(ChannelsLast(), ChannelsLast()), (torch.randn(1, size, 8),))
    assert [layer.layout for layer in last.layers] == ["ntc", "ntc"]


@pytest.mark.parametrize("size", [(3, 6, 5), (8, 8, 8)])
def test_channels_of_a_volume_are_found(size):
    first = find_layers(nn.Sequential(nn.Conv3d(8, 8, 3, padding=1), nn.ReLU()), (torch.randn(1, 8, *size),))
    assert [layer.layout for layer in first.layers] == ["ncdhw"]
    last = find_layers(nn.Sequential(ChannelsLast(), ChannelsLast()), (torch.randn(1, *size, 8),))
    assert [layer.layout for layer in last.layers] == ["ndhwc", "ndhwc"]
