"""Operations trained from nothing with attention or for tokens: the paper's transformer families, and an MLP."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.operations.base import (
    Branch,
    Features,
    conv,
    ends_in_relu,
    feature_map_shapes,
    keeps_shape,
    norm,
    on_feature_maps,
    resizing,
    unless,
    why_no_feature_map,
    width_of,
)
from lana.operations.closed_form import solve
from lana.operations.convolution import RESIDUAL_GAIN, finish

MOST_TOKENS = 1024  # attention over more is slower than anything it could replace
HEADS = 4  # of the bottlenecks
LAMBDA_START = 32  # images of features that a lambda bottleneck starts on
LAMBDA_KEYS, LAMBDA_REACH = 16, 7  # depth of the keys and side of the local context (Bello 2021: 16, 23)


def why_no_attention(layer: Layer, module: nn.Module) -> str:
    """There must be positions to attend to, and not too many."""
    if layer.layout != "ntc":
        return why_no_attention_on_feature_map(layer, module)
    if layer.input_shape[0] != layer.output_shape[0]:
        return "the number of tokens changes"
    return _why_not_positions(layer.input_shape[0])


def why_no_attention_on_feature_map(layer: Layer, module: nn.Module) -> str:
    return why_no_feature_map(layer) or _why_not_positions(math.prod(feature_map_shapes(layer)[1][1:]))


def _why_not_positions(count: int) -> str:
    return unless(1 < count <= MOST_TOKENS, f"{count} positions are not between 2 and {MOST_TOKENS}")


class Transformer(nn.Module):
    """A pre-norm transformer block (batch, tokens, width) with an MLP of twice the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class OnPositions(nn.Module):
    """A feature map as tokens, with a learned position, through modules for tokens, and as a feature map again."""

    def __init__(self, body: nn.Module, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.body = body
        self.position = nn.Parameter(torch.zeros(1, channels, *size))

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x + self.position).flatten(2).transpose(1, 2)
        return self.body(tokens).transpose(1, 2).reshape(x.shape)


def vit(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """`d` transformer blocks of width `w` and `h` heads between linear maps to that width and back."""
    return (_vit_of_tokens if layer.layout == "ntc" else _vit_of_feature_maps)(layer, module, p, features)


def _blocks(p: Mapping[str, float]) -> nn.Sequential:
    return nn.Sequential(*(Transformer(int(p["w"]), int(p["h"])) for _ in range(int(p["d"]))))


def _vit_of_tokens(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None) -> nn.Module:
    inputs, outputs, width = layer.input_shape[-1], layer.output_shape[-1], int(p["w"])
    body = nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, width), _blocks(p), nn.LayerNorm(width), nn.Linear(width, outputs)
    )
    return _finish_tokens(body, layer, module, features)


@on_feature_maps
def _vit_of_feature_maps(
    layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None
) -> nn.Module:
    inputs, outputs, width = layer.input_shape[0], layer.output_shape[0], int(p["w"])
    between = OnPositions(_blocks(p), width, layer.output_shape[1:])
    entry = resizing(layer, inputs, width, max(1, round(layer.input_shape[1] / layer.output_shape[1])))
    body = nn.Sequential(*entry, norm(width), between, conv(width, outputs, 1), norm(outputs))
    return finish(body, layer, module, features, shortcut=True)


class Attention(nn.Module):
    """Self-attention over the positions of a feature map."""

    def __init__(self, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.qkv = conv(channels, 3 * channels, 1)
        self.position = nn.Parameter(torch.zeros(1, channels, *size))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(x + self.position).reshape(batch, 3, HEADS, channels // HEADS, height * width).transpose(3, 4)
        attended = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return attended.transpose(2, 3).reshape(batch, channels, height, width)


class Lambda(nn.Module):
    """A lambda layer (Bello 2021): every position applies linear maps made of all positions and of its surroundings."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.values = channels // HEADS
        self.query, self.key = conv(channels, HEADS * LAMBDA_KEYS, 1), conv(channels, LAMBDA_KEYS, 1)
        self.value = conv(channels, self.values, 1)
        self.query_norm, self.value_norm = norm(HEADS * LAMBDA_KEYS), norm(self.values)
        self.around = conv(1, LAMBDA_KEYS, LAMBDA_REACH)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        positions = height * width
        query = self.query_norm(self.query(x)).reshape(batch, HEADS, LAMBDA_KEYS, positions)
        key = self.key(x).reshape(batch, LAMBDA_KEYS, positions).softmax(-1)
        value = self.value_norm(self.value(x))
        content = key @ value.reshape(batch, self.values, positions).transpose(1, 2)  # (batch, keys, values)
        mixed = content.transpose(1, 2)[:, None] @ query  # (batch, heads, values, positions)
        local = self.around(value.reshape(batch * self.values, 1, height, width))
        local = local.reshape(batch, 1, self.values, LAMBDA_KEYS, positions)
        mixed = mixed + (local * query[:, :, None]).sum(3)
        return mixed.reshape(batch, HEADS * self.values, height, width)


@on_feature_maps
def bot_trans(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """A bottleneck transformer (Srinivas et al. 2021): 1×1 to `e` of the channels, attention, 1×1 back."""
    return _bottleneck(layer, module, p, features, lambda width: Attention(width, layer.output_shape[1:]))


@on_feature_maps
def lambda_bottle(
    layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None
) -> nn.Module:
    """A bottleneck with a lambda layer in the middle; `e` as `bot_trans`."""
    if features is not None:  # its local part takes 16 times the memory of its values
        features = (features[0][:LAMBDA_START], features[1][:LAMBDA_START])
    return _bottleneck(layer, module, p, features, Lambda)


def _bottleneck(
    layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None, middle: type | object
) -> nn.Module:
    inputs, outputs = layer.input_shape[0], layer.output_shape[0]
    width = width_of(outputs, p["e"])
    entry = resizing(layer, inputs, width, 1)
    made: nn.Module = middle(width)  # type: ignore[operator]
    body = nn.Sequential(
        *entry, norm(width), nn.ReLU(), made, norm(width), nn.ReLU(), conv(width, outputs, 1), norm(outputs)
    )
    return finish(body, layer, module, features, shortcut=True)


def mlp(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """For tokens: norm, up or down to `w` of the width, GELU, back; added to tokens of the same width."""
    inputs, outputs = layer.input_shape[-1], layer.output_shape[-1]
    hidden = width_of(outputs, p["w"])
    body = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
    return _finish_tokens(body, layer, module, features)


def _finish_tokens(body: nn.Sequential, layer: Layer, module: nn.Module, features: Features | None) -> nn.Module:
    """The body as a branch; its last linear map starts small with a shortcut, and in closed form on features."""
    last: nn.Linear = body[-1]  # type: ignore[assignment]  # its builders end so
    shortcut = keeps_shape(layer) and layer.layout != "nc"
    nn.init.normal_(last.weight, std=(RESIDUAL_GAIN if shortcut else 1.0) / last.in_features**0.5)
    branch = Branch(body, shortcut=shortcut, relu=ends_in_relu(layer, module))
    if features is not None:
        inputs, outputs = features
        with torch.no_grad():
            censored = isinstance(branch.last, nn.ReLU) and not shortcut
            solve(last, body[:-1](inputs), outputs - inputs if shortcut else outputs, censored=censored)
    return branch
