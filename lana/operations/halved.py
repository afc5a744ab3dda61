"""The teacher's block on a map of half the resolution: a quarter of its work with all of its weights.

What narrower blocks give up is channels, and with them parameters; here it is detail of what the block adds. A shortcut
keeps what is there already at full resolution, as in octave convolutions (Chen et al. 2019).
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
    Features,
    ends_in_relu,
    example_for,
    is_map,
    keeps_shape,
    on_maps,
    once_a_structure,
    resizing,
)


class AtHalf(nn.Module):
    """A block between averages of 2×2 places and copies to 2×2 places, beside a shortcut.

    Without a `shortcut` of its own the input is kept, and the block's change of it is what is added.
    """

    def __init__(self, block: nn.Module, *, shortcut: nn.Module | None, relu: bool) -> None:
        super().__init__()
        self.block = block
        self.shortcut = shortcut
        self.last = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        kept, added = x if self.shortcut is None else self.shortcut(x), self.added(x)
        return self.last(kept + added)

    def added(self, x: Tensor) -> Tensor:
        """What comes of the block, at the output's resolution."""
        small = F.avg_pool2d(x, 2)
        changed = self.block(small)
        return F.interpolate(changed - small if self.shortcut is None else changed, scale_factor=2.0, mode="nearest")


def can_halve(layer: Layer, module: nn.Module) -> bool:
    """Whether a single block gives half of its output where it gets half of its input."""
    return is_map(layer) and len(layer.members) == 1 and _halves(layer, module)


def fits_halved(layer: Layer, module: nn.Module, p: Mapping[str, float]) -> bool:
    """Whether the block has channels to lose, where it is to lose some."""
    return p["w"] == 1 or pruning.can_prune(layer, module)


@once_a_structure
def _halves(layer: Layer, module: nn.Module) -> bool:
    try:
        half = halved(layer, module, {"w": 1.0}, None)
        with quiet_evaluation(half):
            return tuple(half(example_for(layer, module)).shape[1:]) == layer.output_shape
    except Exception:  # made for another size: in whatever way it fails, it is not offered
        return False


@on_maps
def halved(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The block with a share `w` of its inner channels at half the resolution.

    Where the shape changes, the shortcut is a strided 1×1 convolution, solved for what the block leaves at first.
    """
    small = None if features is None else (F.avg_pool2d(features[0], 2), F.avg_pool2d(features[1], 2))
    block = copy.deepcopy(module) if p["w"] == 1 else pruning.pruned(layer, module, p, small)
    relu = ends_in_relu(layer, module)
    if keeps_shape(layer):
        return AtHalf(block, shortcut=None, relu=relu)
    made = resizing(layer, layer.input_shape[0], layer.output_shape[0], 1, bias=True)
    half = AtHalf(block, shortcut=nn.Sequential(*made), relu=relu)
    if features is not None:
        inputs, outputs = features
        with quiet_evaluation(half), torch.no_grad():
            left = outputs - half.added(inputs)
        *pad, body = made
        closed_form.solve(body, pad[0](inputs) if pad else inputs, left)  # type: ignore[arg-type]
    return half
