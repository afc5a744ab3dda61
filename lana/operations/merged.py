"""One block in place of several: a copy of a member of a span, trained to do the work of all of them.

Dropping a block leaves its neighbours as they were; here the one that stays learns what the span did together, so
that what would be interaction between neighbours is distilled instead of summed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from lana.networks.layers import Layer
from lana.networks.structure import quiet_evaluation
from lana.operations import pruning
from lana.operations.base import Features, example_of, unless
from lana.operations.closed_form import LinearMap


def why_not_merged(layer: Layer, module: nn.Module) -> str:
    """One member alone must turn the span's input shape into its output shape."""
    if len(layer.members) == 1:
        return "it is for spans only"
    return unless(_member_of_same_shapes(layer, module) is not None, "no member has the shapes of the whole span")


def merged(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The first member that fits the whole span, with its weights and a share `w` of its inner channels."""
    member = _member_of_same_shapes(layer, module)
    if member is None:
        raise ValueError(f"no member of {layer.name} has the shapes of the whole span")
    return pruning.pruned(layer, member, p, features) if p["w"] < 1 else copy.deepcopy(member)


def _member_of_same_shapes(layer: Layer, module: nn.Module) -> nn.Module | None:
    for member in module.children():
        if next(member.children(), None) is None and not isinstance(member, LinearMap):
            continue  # a normalisation or activation of a plain stack
        try:
            with quiet_evaluation(member):
                output = member(example_of(layer))
        except (RuntimeError, TypeError, ValueError):  # made for another width: not this one
            continue
        if tuple(output.shape[1:]) == layer.output_shape:
            return member
    return None
