"""Operations trained from nothing: the paper's convolution families (section 4 and its table of the pool).

The paper does not specify the shortcuts of its families. Here `cb_stack`, `repvgg` and `conv_cs` have none around them.
The others add their input where the shape is kept, as the blocks that they are named after do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.operations.base import (
    Branch,
    Features,
    conv,
    ends_in_relu,
    keeps_shape,
    norm,
    on_feature_maps,
    resizing,
    width_of,
)

RESIDUAL_GAIN = 0.3  # of the last normalisation in a body that is added: small, so that depth does not explode


def finish(body: nn.Module, layer: Layer, module: nn.Module, features: Features | None, *, shortcut: bool) -> nn.Module:
    """The body as a branch of the layer; on features it starts with the statistics that the layer has."""
    branch = Branch(body, shortcut=shortcut and keeps_shape(layer), relu=ends_in_relu(layer, module))
    if features is not None:
        _match_scale(branch, features)
    return branch


@torch.no_grad()
def _match_scale(branch: Branch, features: Features) -> None:
    """Start at the mean and deviation that the body is to give, channel by channel.

    The statistics of all normalisations are those of the features, so that it is as good before the first step as after
    it.
    """
    norms = [part for part in branch.body.modules() if isinstance(part, nn.BatchNorm2d)]
    last = list(branch.body.children())[-1]
    final = [part for part in last.modules() if isinstance(part, nn.BatchNorm2d)]
    inputs, outputs = features
    target = outputs - inputs if branch.shortcut else outputs
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    branch.train()(inputs)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
    given = branch.eval().body(inputs)
    gain = RESIDUAL_GAIN if branch.shortcut else 1.0
    scale = gain * target.std((0, 2, 3)).clamp(min=1e-3) / given.std((0, 2, 3)).clamp(min=1e-3)
    for part in final:
        part.weight.mul_(scale)
        part.bias.mul_(scale)
    final[0].bias.add_(target.mean((0, 2, 3)) - scale * given.mean((0, 2, 3)))
    branch.train()


@on_feature_maps
def cb_stack(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """conv-BN-ReLU, conv-BN; `k` kernel, `w` width of what is between, as a share of the output channels."""
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    body = nn.Sequential(
        *resizing(layer, inputs, width, kernel),
        norm(width),
        nn.ReLU(),
        conv(width, outputs, kernel),
        norm(outputs),
    )
    return finish(body, layer, module, features, shortcut=False)


@on_feature_maps
def cb_res(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """A residual pair: conv-BN-ReLU, conv-BN, added to the input; parameters as `cb_stack`."""
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    body = nn.Sequential(
        *resizing(layer, inputs, width, kernel),
        norm(width),
        nn.ReLU(),
        conv(width, outputs, kernel),
        norm(outputs, gain=_gain(layer)),
    )
    return finish(body, layer, module, features, shortcut=True)


@on_feature_maps
def cb_bottle(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """A bottleneck (He et al. 2016): 1×1 down to `w` of the channels, `k`×`k` there, 1×1 up."""
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    body = nn.Sequential(
        conv(inputs, width, 1),
        norm(width),
        nn.ReLU(),
        *resizing(layer, width, width, kernel),
        norm(width),
        nn.ReLU(),
        conv(width, outputs, 1),
        norm(outputs, gain=_gain(layer)),
    )
    return finish(body, layer, module, features, shortcut=True)


def _gain(layer: Layer) -> float:
    return RESIDUAL_GAIN if keeps_shape(layer) else 1.0


class RepConv(nn.Module):
    """RepVGG's convolution (Ding et al. 2021): a dense, a 1×1 and an identity branch, each with its normalisation.

    In evaluation mode they are one convolution, whose weights runtimes fold into constants.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.middle: Tensor
        self.itself: Tensor
        self.pad = nn.Sequential(*parts[:-1])
        self.dense: nn.Conv2d = parts[-1]  # type: ignore[assignment]  # what `resizing` gives
        inputs, outputs = self.dense.in_channels, self.dense.out_channels
        self.point = conv(inputs, outputs, 1)
        same = inputs == outputs and self.dense.stride == (1, 1) and not parts[:-1]
        self.norms: Any = nn.ModuleList([norm(outputs) for _ in range(3 if same else 2)])
        middle = torch.zeros(1, 1, *self.dense.kernel_size)
        middle[..., self.dense.kernel_size[0] // 2, self.dense.kernel_size[1] // 2] = 1.0
        self.register_buffer("middle", middle, persistent=False)
        self.register_buffer("itself", torch.eye(outputs, inputs)[:, :, None, None] * middle, persistent=False)

    def _kernels(self) -> list[Tensor]:
        """The branches as kernels of one size; a 1×1 kernel is placed in the middle."""
        return [self.dense.weight, self.point.weight * self.middle, self.itself][: len(self.norms)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(x)
        stride, padding = self.dense.stride, self.dense.padding
        if self.norms[0].training:
            given = [
                bn(F.conv2d(x, k, None, stride, padding)) for k, bn in zip(self._kernels(), self.norms, strict=True)
            ]
            return torch.stack(given).sum(0)
        scales = [bn.weight * torch.rsqrt(bn.running_var + bn.eps) for bn in self.norms]
        kernels = [k * scale.view(-1, 1, 1, 1) for k, scale in zip(self._kernels(), scales, strict=True)]
        biases = [bn.bias - bn.running_mean * scale for bn, scale in zip(self.norms, scales, strict=True)]
        return F.conv2d(x, sum(kernels[1:], kernels[0]), sum(biases[1:], biases[0]), stride, padding)


@on_feature_maps
def repvgg(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """Two RepVGG convolutions with a ReLU between; parameters as `cb_stack`."""
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    same = nn.Conv2d(width, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(same.weight, nonlinearity="relu")
    body = nn.Sequential(RepConv(resizing(layer, inputs, width, kernel)), nn.ReLU(), RepConv([same]))
    return finish(body, layer, module, features, shortcut=False)


@on_feature_maps
def conv_cs(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """conv-BN-ReLU, conv-BN in two groups with the channels shuffled between; parameters as `cb_stack`.

    The paper describes `conv_cs` only as "pairs with perturbations". A permutation of channels lets pairs of grouped
    convolutions see all channels (Zhang et al. 2018), at half the work.
    """
    inputs, outputs, kernel = layer.input_shape[0], layer.output_shape[0], int(p["k"])
    width = width_of(outputs, p["w"])
    groups = 1 if inputs % 2 or outputs % 2 else 2
    body = nn.Sequential(
        *resizing(layer, inputs, width, kernel, groups),
        norm(width),
        nn.ReLU(),
        nn.ChannelShuffle(groups) if groups > 1 else nn.Identity(),
        conv(width, outputs, kernel, groups=groups),
        norm(outputs),
    )
    return finish(body, layer, module, features, shortcut=False)


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


@on_feature_maps
def efn(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The inverted residual of MobileNetV2: 1×1 up by `e`, depthwise `k`×`k`, squeeze-excite `se`, 1×1 down."""
    inputs, outputs = layer.input_shape[0], layer.output_shape[0]
    wide = round(inputs * p["e"])
    head: list[nn.Module] = [] if p["e"] == 1 else [conv(inputs, wide, 1), norm(wide), nn.ReLU()]
    middle = [*resizing(layer, wide, wide, int(p["k"]), wide), norm(wide), nn.ReLU()]
    return _inverted(layer, module, p, features, [*head, *middle], wide, outputs)


@on_feature_maps
def efnv2(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The fused inverted residual of EfficientNetV2: one dense `k`×`k` up by `e`, squeeze-excite `se`, 1×1 down."""
    inputs, outputs = layer.input_shape[0], layer.output_shape[0]
    wide = round(inputs * p["e"])
    head = [*resizing(layer, inputs, wide, int(p["k"])), norm(wide), nn.ReLU()]
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
    body = nn.Sequential(*parts, conv(wide, outputs, 1), norm(outputs, gain=_gain(layer)))
    return finish(body, layer, module, features, shortcut=True)
