"""What the builders share: shapes, the layer's last non-linearity, a branch beside a shortcut."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lana.layers import Layer
from lana.structure import quiet_evaluation

Features = tuple[Tensor, Tensor]
Builder = Callable[[Layer, nn.Module, Mapping[str, float], Features | None], nn.Module]


def is_map(layer: Layer, module: nn.Module | None = None) -> bool:
    """Whether the layer turns a feature map into one of the same or a smaller size, by one whole stride."""
    if layer.layout != "nchw":
        return False
    (_, height, width), (_, out_height, out_width) = layer.input_shape, layer.output_shape
    stride = stride_of(layer)
    return out_height == -(-height // stride) and out_width == -(-width // stride)


def stride_of(layer: Layer) -> int:
    """The stride that takes the input size to the output size."""
    return max(1, round(layer.input_shape[1] / layer.output_shape[1]))


def keeps_shape(layer: Layer, module: nn.Module | None = None) -> bool:
    return layer.input_shape == layer.output_shape


def example_of(layer: Layer, batch: int = 2) -> Tensor:
    """A fixed random input of the layer."""
    return torch.randn(batch, *layer.input_shape, generator=torch.Generator().manual_seed(0))


def ends_in_relu(layer: Layer, module: nn.Module) -> bool:
    """Whether the teacher's layer ends in a ReLU: no output is below zero, whatever its weights are."""
    with quiet_evaluation(module):
        output = module(example_of(layer))
    return bool((output >= 0).all() and (output == 0).any())


class Branch(nn.Module):
    """A body, added to its input where the shape is kept and a shortcut is wanted, and the layer's last ReLU.

    A body that is added starts at zero by its last normalisation's gain, so the branch begins as its shortcut.
    """

    def __init__(self, body: nn.Module, *, shortcut: bool, relu: bool) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.last = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.last(x + y if self.shortcut else y)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1 and the variance behind a ReLU (He et al. 2015)."""
    made = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
    nn.init.kaiming_normal_(made.weight, mode="fan_in", nonlinearity="relu")
    return made


def width_of(channels: int, share: float) -> int:
    """A share of a number of channels, at least 4 and in steps of 4: what vector units work on."""
    return max(4, round(channels * share / 4) * 4)


def norm(channels: int, *, gain: float = 1.0) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    nn.init.constant_(made.weight, gain)
    return made
