"""The teacher's block on a feature map of half the resolution: a quarter of its work with all of its weights.

Narrower blocks lose channels and parameters; this block loses detail of its residual only. A shortcut keeps the input
at full resolution, as in octave convolutions (Chen et al. 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.networks.structure import quiet_evaluation
from lana.operations import closed_form, pruning
from lana.operations.base import (
    FOR_SINGLE_LAYERS,
    Features,
    ShortcutSum,
    brief,
    ends_in_relu,
    example_for,
    keeps_shape,
    on_feature_maps,
    once_a_structure,
    resizing,
    unless,
    why_no_feature_map,
)


class HalfResolutionBlock(ShortcutSum):
    """A block between averages of 2×2 positions and copies to 2×2 positions, added to a shortcut.

    Without a `shortcut` of its own the input is kept, and the block's change of it is what is added.
    """

    def __init__(self, block: nn.Module, *, shortcut: nn.Module | None, relu: bool) -> None:
        super().__init__(relu=relu)
        self.block = block
        self.shortcut = shortcut

    def kept(self, x: Tensor) -> Tensor:
        return x if self.shortcut is None else self.shortcut(x)

    def added(self, x: Tensor) -> Tensor:
        """The block's output or its change of the input, at the output's resolution."""
        small = F.avg_pool2d(x, 2)
        changed = self.block(small)
        return F.interpolate(changed - small if self.shortcut is None else changed, scale_factor=2.0, mode="nearest")


def why_not_halved(layer: Layer, module: nn.Module) -> str:
    """A single block must give half of its output where it gets half of its input."""
    if len(layer.members) > 1:
        return FOR_SINGLE_LAYERS
    return why_no_feature_map(layer) or _why_not_run_halved(layer, module)


def why_not_halved_with(layer: Layer, module: nn.Module, p: Mapping[str, float]) -> str:
    """The block must have channels to lose, where it is to lose some."""
    return "" if p["w"] == 1 else pruning.why_not_pruned(layer, module)


@once_a_structure
def _why_not_run_halved(layer: Layer, module: nn.Module) -> str:
    try:
        half = halved(layer, module, {"w": 1.0}, None)
        with quiet_evaluation(half):
            shape = tuple(half(example_for(layer, module)).shape[1:])
    except Exception as error:  # a block that is made for one size may raise anything
        return f"it does not run at half the resolution: {brief(error)}"
    return unless(shape == layer.output_shape, "at half the resolution it has another shape")


@on_feature_maps
def halved(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The block with a share `w` of its inner channels at half the resolution.

    Where the shape changes, the shortcut is a strided 1×1 convolution, solved for what the block leaves at first.
    """
    small = None if features is None else (F.avg_pool2d(features[0], 2), F.avg_pool2d(features[1], 2))
    block = copy.deepcopy(module) if p["w"] == 1 else pruning.pruned(layer, module, p, small)
    relu = ends_in_relu(layer, module)
    if keeps_shape(layer):
        return HalfResolutionBlock(block, shortcut=None, relu=relu)
    made = resizing(layer, layer.input_shape[0], layer.output_shape[0], 1, bias=True)
    half = HalfResolutionBlock(block, shortcut=nn.Sequential(*made), relu=relu)
    if features is not None:
        inputs, outputs = features
        with quiet_evaluation(half), torch.no_grad():
            left = outputs - half.added(inputs)
        *pad, body = made
        closed_form.solve(body, pad[0](inputs) if pad else inputs, left)  # type: ignore[arg-type]
    return half
