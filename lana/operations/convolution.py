"""Operations trained from nothing: the paper's convolution families (section 4 and its table of the pool).

The paper does not give the shortcuts of its families: here `cb_stack` has none, and the others add their input where
the shape is kept, as the blocks that they are named after do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lana.layers import Layer
from lana.operations.base import Branch, Features, conv, ends_in_relu, is_map, keeps_shape, norm, stride_of, width_of

__all__ = ["cb_bottle", "cb_res", "cb_stack", "efn", "efnv2", "is_map", "is_vector", "mlp"]

RIDGE = 1e-2  # of the mean variance, in the closed-form start of a last layer
RESIDUAL_GAIN = 0.3  # of the last normalisation in a body that is added: small, so that depth does not explode


def is_vector(layer: Layer, module: nn.Module) -> bool:
    """Whether the layer works on vectors: tokens, or one a picture."""
    return layer.layout in ("ntc", "nc", "nhwc") and layer.input_shape[:-1] == layer.output_shape[:-1]


def _finish(
    body: nn.Module, layer: Layer, module: nn.Module, features: Features | None, *, shortcut: bool
) -> nn.Module:
    branch = Branch(body, shortcut=shortcut and keeps_shape(layer), relu=ends_in_relu(layer, module))
    if features is not None:
        _match_scale(branch, features)
    return branch


@torch.no_grad()
def _match_scale(branch: Branch, features: Features) -> None:
    """Start the last normalisation at the mean and deviation that the body is to give, channel by channel.

    The statistics of all normalisations are those of the features, so that it is as good before the first step as after
    it.
    """
    norms = [part for part in branch.body.modules() if isinstance(part, nn.BatchNorm2d)]
    inputs, outputs = features
    target = outputs - inputs if branch.shortcut else outputs
    gain = RESIDUAL_GAIN if branch.shortcut else 1.0
    norms[-1].weight.copy_(gain * target.std((0, 2, 3)).clamp(min=1e-3))
    norms[-1].bias.copy_(target.mean((0, 2, 3)))
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    branch.train()(inputs)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum


def cb_stack(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """conv-BN-ReLU, conv-BN; `k` kernel, `w` width of what is between, as a share of the output channels."""
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    body = nn.Sequential(
        conv(inputs, width, kernel, stride_of(layer)),
        norm(width),
        nn.ReLU(),
        conv(width, outputs, kernel),
        norm(outputs),
    )
    return _finish(body, layer, module, features, shortcut=False)


def cb_res(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """A residual pair: conv-BN-ReLU, conv-BN, added to the input; parameters as `cb_stack`."""
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    gain = RESIDUAL_GAIN if keeps_shape(layer) else 1.0
    body = nn.Sequential(
        conv(inputs, width, kernel, stride_of(layer)),
        norm(width),
        nn.ReLU(),
        conv(width, outputs, kernel),
        norm(outputs, gain=gain),
    )
    return _finish(body, layer, module, features, shortcut=True)


def cb_bottle(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """A bottleneck (He et al. 2016): 1×1 down to `w` of the channels, `k`×`k` there, 1×1 up."""
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    gain = RESIDUAL_GAIN if keeps_shape(layer) else 1.0
    body = nn.Sequential(
        conv(inputs, width, 1),
        norm(width),
        nn.ReLU(),
        conv(width, width, kernel, stride_of(layer)),
        norm(width),
        nn.ReLU(),
        conv(width, outputs, 1),
        norm(outputs, gain=gain),
    )
    return _finish(body, layer, module, features, shortcut=True)


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled map (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = conv(channels, hidden, 1, bias=True), conv(hidden, channels, 1, bias=True)
        nn.init.normal_(self.up.weight, std=0.01)  # not zero, or nothing would reach the layer before
        nn.init.constant_(self.up.bias, 2.0)  # type: ignore[arg-type]  # gates start nearly open

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(F.silu(self.down(x.mean((2, 3), keepdim=True))))  # silu: four units may all be dead
        return x * torch.sigmoid(gate)


def efn(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The inverted residual of MobileNetV2: 1×1 up by `e`, depthwise `k`×`k`, squeeze-excite `se`, 1×1 down."""
    inputs, outputs = layer.input_shape[0], layer.output_shape[0]
    wide = round(inputs * p["e"])
    head: list[nn.Module] = [] if p["e"] == 1 else [conv(inputs, wide, 1), norm(wide), nn.ReLU()]
    middle = [conv(wide, wide, int(p["k"]), stride_of(layer), groups=wide), norm(wide), nn.ReLU()]
    return _inverted(layer, module, p, features, [*head, *middle], wide, outputs)


def efnv2(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The fused inverted residual of EfficientNetV2: one dense `k`×`k` up by `e`, squeeze-excite `se`, 1×1 down."""
    inputs, outputs = layer.input_shape[0], layer.output_shape[0]
    wide = round(inputs * p["e"])
    head = [conv(inputs, wide, int(p["k"]), stride_of(layer)), norm(wide), nn.ReLU()]
    return _inverted(layer, module, p, features, head, wide, outputs)


def _inverted(
    layer: Layer,
    module: nn.Module,
    p: Mapping[str, float],
    features: Features | None,
    parts: list[nn.Module],
    wide: int,
    outputs: int,
) -> nn.Module:
    if p["se"]:
        parts = [*parts, SqueezeExcite(wide, max(4, round(wide * p["se"])))]
    gain = RESIDUAL_GAIN if keeps_shape(layer) else 1.0
    body = nn.Sequential(*parts, conv(wide, outputs, 1), norm(outputs, gain=gain))
    return _finish(body, layer, module, features, shortcut=True)


def mlp(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """For vectors and tokens: norm, up or down to `w` of the width, GELU, back; added to tokens of the same width."""
    inputs, outputs = layer.input_shape[-1], layer.output_shape[-1]
    hidden = width_of(outputs, p["w"])
    last = nn.Linear(hidden, outputs)
    shortcut = keeps_shape(layer) and layer.layout != "nc"
    nn.init.normal_(last.weight, std=(RESIDUAL_GAIN if shortcut else 1.0) / hidden**0.5)
    body = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.GELU(), last)
    branch = Branch(body, shortcut=shortcut, relu=ends_in_relu(layer, module))
    if features is not None:
        _solve_last(branch, last, features)
    return branch


@torch.no_grad()
def _solve_last(branch: Branch, last: nn.Linear, features: Features) -> None:
    """Start the last linear map at the least-squares solution over what the others give."""
    inputs, outputs = (tensor.flatten(0, -2) for tensor in features)
    hidden = branch.body[:-1](inputs)  # type: ignore[index]  # the body is a sequence
    target = outputs - inputs if branch.shortcut else outputs
    mean, aim = hidden.mean(0), target.mean(0)
    gram = (hidden - mean).T @ (hidden - mean)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-8))
    weight = torch.linalg.solve(gram, (hidden - mean).T @ (target - aim))
    last.weight.copy_(weight.T)
    last.bias.copy_(aim - mean @ weight)
