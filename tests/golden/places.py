"""Small layers of pure PyTorch, one for every kind of operation: (module, input shape, output shape, layout)."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A residual block as ResNets have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)


class Gate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Gated(nn.Module):
    """An inverted residual with squeeze-and-excitation, as EfficientNets have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, 32, 1), nn.BatchNorm2d(32), nn.SiLU())
        self.gate = Gate(32)
        self.project = nn.Sequential(nn.Conv2d(32, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.gate(self.expand(x)))


class Transformer(nn.Module):
    """A transformer block on (batch, tokens, channels)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


PLACES = {
    "map": (lambda: Residual(16), (16, 12, 12), (16, 12, 12), "nchw"),
    "span": (lambda: nn.Sequential(Residual(16), Residual(16)), (16, 12, 12), (16, 12, 12), "nchw"),
    "gated": (lambda: Gated(16), (16, 12, 12), (16, 12, 12), "nchw"),
    "tokens": (lambda: Transformer(32), (10, 32), (10, 32), "ntc"),
    "vector": (lambda: nn.Sequential(nn.Linear(24, 24), nn.ReLU()), (24,), (24,), "nc"),
}

# One operation of every family, at a place where it is offered.
EXPORTED = {
    "teacher": "map",
    "identity": "map",
    "pruned_w0.5": "map",
    "low_rank_r0.25": "map",
    "fewer_heads_h0.5": "tokens",
    "no_se": "gated",
    "halved_w0.5": "map",
    "merged_w0.5": "span",
    "linear_k3": "map",
    "cb_stack_k3_w0.5": "map",
    "cb_bottle_k3_w0.5": "map",
    "cb_res_k3_w0.5": "map",
    "repvgg_k3_w0.5": "map",
    "conv_cs_k3_w0.5": "map",
    "efn_e3_k3_se0.04": "map",
    "efnv2_e3_k3_se0.04": "map",
    "vit_d1_w64_h8": "tokens",
    "bot_trans_e0.5": "map",
    "lambda_e0.5": "map",
    "mlp_w0.5": "vector",
}
