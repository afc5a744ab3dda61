"""Shared parts of the builders: shapes, the last non-linearity, a branch with a shortcut, channels-last layers."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.networks.structure import Convolution, quiet_evaluation, structure_key

Features = tuple[Tensor, Tensor]

Build = Callable[[Layer, nn.Module, Mapping[str, float], Features | None], nn.Module]

T = TypeVar("T")

LAST_TO_FIRST, FIRST_TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def is_feature_map(layer: Layer) -> bool:
    """True if the layer turns a feature map into one of the same or a smaller size."""
    return layer.layout in ("nchw", "nhwc") and _no_larger(layer)


def is_sequence_or_volume(layer: Layer) -> bool:
    """True if the layer turns a channels-first sequence or volume into one of the same or a smaller size."""
    return layer.layout in ("ncl", "ncdhw") and _no_larger(layer)


def _no_larger(layer: Layer) -> bool:
    return all(after <= before for before, after in zip(*sizes(layer), strict=True))


def sizes(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of positions that go in and come out, along each dimension."""
    positions = slice(None, -1) if layer.layout.endswith("c") else slice(1, None)
    return layer.input_shape[positions], layer.output_shape[positions]


def has_tokens(layer: Layer) -> bool:
    """True if the channels come last, at as many positions as before: tokens, feature maps, or one vector an image."""
    return layer.layout in ("ntc", "nc", "nhwc", "ndhwc") and layer.input_shape[:-1] == layer.output_shape[:-1]


def feature_map_shapes(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output shape of a feature map as (channels, height, width)."""
    shapes = layer.input_shape, layer.output_shape
    if layer.layout == "nhwc":
        return (shapes[0][2], *shapes[0][:2]), (shapes[1][2], *shapes[1][:2])
    return shapes


def keeps_shape(layer: Layer) -> bool:
    return layer.input_shape == layer.output_shape


FOR_SINGLE_LAYERS = "it is for single layers only"


def unless(holds: bool, reason: str) -> str:
    """The reason where a condition does not hold, and nothing where it does.

    >>> unless(True, "the shape changes"), unless(False, "the shape changes")
    ('', 'the shape changes')
    """
    return "" if holds else reason


def why_no_feature_map(layer: Layer, module: nn.Module | None = None) -> str:
    return unless(is_feature_map(layer), "its input is no feature map, or its output is larger")


def why_no_tokens(layer: Layer, module: nn.Module | None = None) -> str:
    return unless(has_tokens(layer), "its channels do not come last, or the number of positions changes")


def brief(error: Exception) -> str:
    """An error that a reason names: its type and the beginning of its message."""
    return f"{type(error).__name__}: {str(error)[:150]}".removesuffix(": ")


def example_of(layer: Layer, batch: int = 2) -> Tensor:
    """A fixed random input of the layer."""
    return torch.randn(batch, *layer.input_shape, generator=torch.Generator().manual_seed(0))


_KEYS: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], str]] = WeakKeyDictionary()


def structure_of(layer: Layer, module: nn.Module) -> tuple[str, tuple[str, ...]]:
    """The same for modules that are alike down to the names of their parts, whatever their weights and their path."""
    entry = _KEYS.get(module)
    if entry is None or entry[0] != layer.input_shape:
        entry = _KEYS[module] = (layer.input_shape, structure_key(module, (example_for(layer, module),)))
    return entry[1], tuple(name for name, _ in (*module.named_modules(), *module.named_parameters()))


def once_a_structure(find: Callable[[Layer, nn.Module], T]) -> Callable[[Layer, nn.Module], T]:
    """Remember what was found in a module for all that are alike.

    It is looked for under fixed random weights, so that the answer is the structure's: an operation is built again,
    from a teacher without its weights, where a student is loaded. As they are made, weights may be zero.
    """
    results: dict[Any, T] = {}

    @functools.wraps(find)
    def remembered(layer: Layer, module: nn.Module) -> T:
        key = structure_of(layer, module)
        if key not in results:
            results[key] = find(layer, _with_random_weights(module))
        return results[key]

    return remembered


@torch.no_grad()
def _with_random_weights(module: nn.Module) -> nn.Module:
    """A copy whose every part does something: kernels keep the variance, gains are around one, biases around zero."""
    made, generator = copy.deepcopy(module), torch.Generator().manual_seed(0)
    for name, tensor in made.named_parameters():
        if not tensor.is_floating_point():
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            drawn *= max(1.0, tensor.numel() / len(tensor)) ** -0.5
        else:
            drawn = 0.1 * drawn + (0.0 if name.endswith("bias") else 1.0)
        tensor.copy_(drawn)
    for part in made.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            part.reset_running_stats()
    return made


def example_for(layer: Layer, module: nn.Module) -> Tensor:
    """The fixed random input, where the module's weights are."""
    return example_of(layer).to(next((p.device for p in module.parameters()), torch.device("cpu")))


@once_a_structure
def ends_in_relu(layer: Layer, module: nn.Module) -> bool:
    """True if the teacher's layer ends in a ReLU: no output is below zero, whatever its weights are."""
    with quiet_evaluation(module):
        output = module(example_for(layer, module))
    return bool((output >= 0).all() and (output == 0).any())


class Permuted(nn.Module):
    """A module on permuted dimensions: a channels-first one for channels-last feature maps, or the other way round."""

    def __init__(self, module: nn.Module, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        self.module, self.before, self.after = module, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.permute(self.before)).permute(self.after)


def on_feature_maps(build: Build) -> Build:
    """Let a builder for channels-first feature maps serve channels-last ones too."""

    @functools.wraps(build)
    def permuted(
        layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None
    ) -> nn.Module:
        if layer.layout != "nhwc":
            return build(layer, module, p, features)
        inputs, outputs = feature_map_shapes(layer)
        first = dataclasses.replace(layer, input_shape=inputs, output_shape=outputs, layout="nchw")
        if features is not None:
            features = (features[0].permute(LAST_TO_FIRST), features[1].permute(LAST_TO_FIRST))
        built = build(first, Permuted(module, FIRST_TO_LAST, LAST_TO_FIRST), p, features)
        return Permuted(built, LAST_TO_FIRST, FIRST_TO_LAST)

    return permuted


class ShortcutSum(nn.Module):
    """The sum of what a shortcut keeps of the input and what a block adds, and the layer's last ReLU."""

    def __init__(self, *, relu: bool) -> None:
        super().__init__()
        self.last = nn.ReLU() if relu else nn.Identity()

    def kept(self, x: Tensor) -> Tensor | None:
        """The shortcut's output; None without a shortcut."""
        raise NotImplementedError

    def added(self, x: Tensor) -> Tensor:
        """The block's output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        kept, added = self.kept(x), self.added(x)
        return self.last(added if kept is None else kept + added)


class Branch(ShortcutSum):
    """A body, added to its input where the shape is kept and a shortcut is wanted, and the layer's last ReLU.

    A body that is added starts at zero by its last normalisation's gain, so the branch begins as its shortcut.
    """

    def __init__(self, body: nn.Module, *, shortcut: bool, relu: bool) -> None:
        super().__init__(relu=relu)
        self.body = body
        self.shortcut = shortcut

    def kept(self, x: Tensor) -> Tensor | None:
        return x if self.shortcut else None

    def added(self, x: Tensor) -> Tensor:
        return self.body(x)


def conv(
    inputs: int, outputs: int, kernel: int, groups: int = 1, *, bias: bool = False, dimensions: int = 2
) -> Convolution:
    """A convolution that keeps the size at stride 1 and the variance behind a ReLU (He et al. 2015)."""
    made = get_args(Convolution)[dimensions - 1](inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=bias)
    nn.init.kaiming_normal_(made.weight, mode="fan_in", nonlinearity="relu")
    return made


def resizing(
    layer: Layer, inputs: int, outputs: int, kernel: int, groups: int = 1, *, bias: bool = False
) -> list[nn.Module]:
    """A convolution from the layer's input size to its output size, behind a padding where it cannot do that itself."""
    before, after = layer.input_shape[1:], layer.output_shape[1:]
    made = conv(inputs, outputs, kernel, groups=groups, bias=bias, dimensions=len(before))
    pads = []
    for size, aim in zip(before, after, strict=True):
        stride = max(1, round(size / aim))
        missing = (aim - 1) * stride + kernel - size  # to pad in all; below zero, to crop
        own = [kernel // 2, max(0, missing // 2), max(0, (missing + 1) // 2)]
        padding = next((p for p in own if (size + 2 * p - kernel) // stride + 1 == aim), None)
        pads.append((stride, padding, missing))
    made.stride = tuple(stride for stride, _, _ in pads)
    if all(padding is not None for _, padding, _ in pads):
        made.padding = tuple(padding or 0 for _, padding, _ in pads)
        return [made]
    made.padding = (0,) * len(pads)
    around = tuple(part for _, _, missing in reversed(pads) for part in (missing // 2, missing - missing // 2))
    pad: Any = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)[len(pads) - 1]
    return [pad(around, 0.0), made]


def width_of(channels: int, share: float) -> int:
    """A share of a number of channels, at least 4 and in steps of 4: what vector units work on."""
    return max(4, round(channels * share / 4) * 4)


def norm(channels: int, *, gain: float = 1.0) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    nn.init.constant_(made.weight, gain)
    return made


Parameters = Mapping[str, float]


def always(layer: Layer, module: nn.Module) -> str:
    return ""


def with_all(layer: Layer, module: nn.Module, p: Parameters) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Operations of one kind: how one is built, where it makes sense, and the parameters that the paper's pool has.

    `why_not` is the reason why a layer is not offered the family, and `why_not_with` why not one operation of it; an
    empty reason offers it. `derived` families start from the teacher's weights or are solved in closed form. A family
    with its `own_quota` is trained in addition to others of its latency: size alone does not determine its loss.
    """

    build: Build
    why_not: Callable[[Layer, nn.Module], str]
    grid: Mapping[str, Sequence[float]]
    why_not_with: Callable[[Layer, nn.Module, Parameters], str] = with_all
    derived: bool = False
    own_quota: bool = False
