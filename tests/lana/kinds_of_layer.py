"""One layer of every kind, with its module."""

import torch
from torch import nn

from lana.networks.layers import Layer
from lana.operations.convolution import SqueezeExcite


class Block(nn.Module):
    """A residual block as ResNets have it."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class Tokens(nn.Module):
    """A transformer block on (batch, tokens, channels)."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


def made(seed, build):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


class Gated(nn.Module):
    """An inverted residual with squeeze-excite, as EfficientNets have it."""

    def __init__(self, channels):
        super().__init__()
        wide = 2 * channels
        self.up = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide), nn.SiLU())
        self.gate = SqueezeExcite(wide, 8)
        self.down = nn.Sequential(nn.Conv2d(wide, channels, 1), nn.BatchNorm2d(channels))
        nn.init.normal_(self.gate.up.weight, std=1.0)

    def forward(self, x):
        return x + self.down(self.gate(self.up(x)))


class Last(nn.Module):
    """A channels-last block."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(channels), nn.Linear(channels, 3 * channels)
        self.down = nn.Linear(3 * channels, channels)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Heard(nn.Module):
    """A residual block over time, as networks for sound have it."""

    convolution, norm = nn.Conv1d, nn.BatchNorm1d

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            self.convolution(inputs, 32, 5, stride, 2, bias=False),
            self.norm(32),
            nn.ReLU(),
            self.convolution(32, outputs, 3, 1, 2, 2),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else self.convolution(inputs, outputs, 1, stride)

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class Seen(Heard):
    """The same over volumes or videos."""

    convolution, norm = nn.Conv3d, nn.BatchNorm3d


LAYERS = {
    "same": (lambda: Block(16, 16), (16, 12, 12), (16, 12, 12), "nchw"),
    "odd size": (lambda: Block(16, 16), (16, 7, 9), (16, 7, 9), "nchw"),
    "stride": (lambda: Block(16, 32, 2), (16, 12, 12), (32, 6, 6), "nchw"),
    "stride, odd size": (lambda: Block(16, 24, 2), (16, 7, 7), (24, 4, 4), "nchw"),
    "no padding": (lambda: nn.Sequential(nn.Conv2d(16, 24, 3, 2), nn.ReLU()), (16, 10, 13), (24, 4, 6), "nchw"),
    "channels": (lambda: Block(16, 40), (16, 8, 8), (40, 8, 8), "nchw"),
    "gated": (lambda: Gated(16), (16, 6, 6), (16, 6, 6), "nchw"),
    "channels last": (lambda: Last(16), (7, 6, 16), (7, 6, 16), "nhwc"),
    "sequence": (lambda: Heard(16, 16), (16, 20), (16, 20), "ncl"),
    "sequence, stride": (lambda: Heard(16, 24, 2), (16, 21), (24, 11), "ncl"),
    "volume": (lambda: Seen(16, 16), (16, 4, 6, 5), (16, 4, 6, 5), "ncdhw"),
    "volume, stride": (lambda: Seen(16, 24, 2), (16, 5, 7, 4), (24, 3, 4, 2), "ncdhw"),
    "video, channels last": (lambda: Last(16), (3, 5, 4, 16), (3, 5, 4, 16), "ndhwc"),
    "tokens": (lambda: Tokens(32), (10, 32), (10, 32), "ntc"),
    "span": (lambda: nn.Sequential(Block(16, 16), Block(16, 16)), (16, 8, 8), (16, 8, 8), "nchw"),
    "span, stride": (lambda: nn.Sequential(Block(16, 16), Block(16, 32, 2)), (16, 8, 8), (32, 4, 4), "nchw"),
    "vectors": (lambda: nn.Sequential(nn.Linear(24, 24), nn.ReLU()), (24,), (24,), "nc"),
}


def layer_of(kind):
    build, inputs, outputs, layout = LAYERS[kind]
    members = ("layer.0", "layer.1") if kind.startswith("span") else ("layer",)
    layer = Layer(name="layer", input_shape=inputs, output_shape=outputs, layout=layout, macs=1, members=members)
    return layer, made(0, build)
