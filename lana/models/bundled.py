"""The bundled example: a small residual network for scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from torch import Tensor, nn

from lana.models.weights import load_weights


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016), a 1×1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == channels
            else nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Three stages of five residual blocks of 16, 32 and 64 channels on 16×16 grey images; ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        channels, blocks = 16, []
        for stage in range(3):
            for block in range(5):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResidualBlock(channels, 16 * 2**stage, stride))
                channels = 16 * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))


def digits_resnet(*, pretrained: bool) -> tuple[nn.Module, Mapping[str, Any]]:
    """The network and its preprocessing; the weights are made by `benchmarks/train_digits.py`."""
    module = DigitsResNet()
    if pretrained:
        with resources.as_file(resources.files("lana") / "assets" / "digits_resnet.safetensors") as path:
            load_weights(module, path)
    return module, {"image_size": 16, "mean": (0.305,), "std": (0.345,)}
