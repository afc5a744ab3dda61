"""Structured pruning inside a block: the teacher's weights without the channels that matter least.

Which channels go together is found once for each structure of a block, in `lana.operations.channel_groups`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.networks.structure import quiet_evaluation
from lana.operations.base import Features, brief, example_of, once_a_structure, unless
from lana.operations.channel_groups import InnerGroup, Part, candidate_groups
from lana.operations.closed_form import LinearMap, dense_parts, solve, watch

FEWEST_CHANNELS = 8  # of a group, for there to be something to choose from
EQUAL = 1e-3  # relative: a block without channels that nobody reads gives what it gave


def why_not_pruned(layer: Layer, module: nn.Module) -> str:
    """There must be channels inside that neither input nor output fixes.

    The span of a plain stack has some between its maps, which belong to neither border.
    """
    if len(layer.members) > 1 and not _plain_stack(module):
        return "its members are pruned one by one"
    groups, reason = _groups_or_reason(layer, module)
    return unless(bool(groups), reason)


def _plain_stack(module: nn.Module) -> bool:
    """True if convolutions or linear maps run one after the other, so that the channels between them are inside."""
    return all(next(part.children(), None) is None for part in module.children())


def pruned(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's block with a share `w` of its inner channels.

    On features, the channels that contribute most to the consuming convolutions are kept. The latter are solved
    again for the outputs that they had with all channels. This is channel pruning (He et al. 2017).
    """
    block = copy.deepcopy(module).eval()
    if p["w"] >= 1:
        return block
    maps = [part for part in block.modules() if isinstance(part, LinearMap)]
    seen = watch(block, maps, features[0]) if features is not None else {}
    widths = {part: _width(part) for part in dense_parts(block)}
    cuts = []
    for group in inner_groups(layer, module):
        order = _importance(block, group, seen).argsort()
        cuts.append((group, order[: group.channels // group.groups - _kept(group, p["w"])]))
    remove(block, cuts)
    if features is not None:
        _reconstruct(block, features[0], seen, widths)
    return block.requires_grad_(True)


def _kept(group: InnerGroup, share: float) -> int:
    """The number of channels that each of its groups keeps: the mere share, since the table shows which widths are
    fast.
    """
    return max(1, round(group.channels // group.groups * share))


def inner_groups(layer: Layer, module: nn.Module) -> tuple[InnerGroup, ...]:
    """The groups of channels that can be removed while the block still fits its layer; none where that is unclear."""
    return _groups_or_reason(layer, module)[0]


@once_a_structure
def _groups_or_reason(layer: Layer, module: nn.Module) -> tuple[tuple[InnerGroup, ...], str]:
    try:
        groups = _find_groups(layer, copy.deepcopy(module).cpu().eval())
    except Exception as error:  # the block's own code, or its dependency graph, may raise anything
        return (), f"its channels cannot be followed: {brief(error)}"
    own = {type(part).__name__ for part in module.modules() if isinstance(part, LinearMap) and _has_own_forward(part)}
    reason = "input and output fix all of its channels, or it does not run without some"
    if own:
        reason += f"; {', '.join(sorted(own))} may compute weights from all channels"
    return groups, unless(bool(groups), reason)


def _has_own_forward(part: LinearMap) -> bool:
    """True if it may compute its weights from others, as standardised convolutions do."""
    return not type(part).forward.__module__.startswith("torch.")


def _find_groups(layer: Layer, block: nn.Module) -> tuple[InnerGroup, ...]:
    groups = []
    for group in candidate_groups(block, example_of(layer)):
        half = group.channels // group.groups // 2
        if group.channels >= FEWEST_CHANNELS and half and _fits(layer, block, [(group, torch.arange(half))]):
            groups.append(group)
    halves = [(group, torch.arange(group.channels // group.groups // 2)) for group in groups]
    return tuple(groups) if _fits(layer, block, halves) else ()


Cuts = Sequence[tuple[InnerGroup, Tensor]]  # which positions of each of a group's groups go


def remove(block: nn.Module, cuts: Cuts) -> None:
    """Take channels out of a block, in place."""
    gone: dict[tuple[str, str], tuple[Part, set[int]]] = {}
    for group, positions in cuts:
        for part in group.parts:
            indices = part.indices[torch.isin(part.roots, _channels(group, positions))].tolist()
            gone.setdefault((part.path, part.handler.__name__), (part, set()))[1].update(indices)
    for (path, _), (part, channels) in gone.items():
        part.handler.__self__.pruning_dim = part.dimension  # type: ignore[attr-defined]  # read by some handlers
        if part.parameter:
            parent, _, name = path.rpartition(".")
            setattr(block.get_submodule(parent), name, part.handler(block.get_parameter(path), sorted(channels)))
        else:
            part.handler(block.get_submodule(path), sorted(channels))


def _channels(group: InnerGroup, positions: Tensor) -> Tensor:
    size = group.channels // group.groups
    return (torch.arange(group.groups)[:, None] * size + positions.cpu()[None]).flatten()


def _fits(layer: Layer, block: nn.Module, cuts: Cuts) -> bool:
    """True if the block runs without these channels and has the outputs that it has when nobody reads them.

    A block without part of an outer group fails, or its shape changes. Where positions change their meaning (the heads
    of an attention), its outputs change.
    """
    trial, unread = copy.deepcopy(block), copy.deepcopy(block)
    example = example_of(layer)
    exact = True
    try:
        remove(trial, cuts)
        for group, positions in cuts:
            for part in group.parts:
                exact = _silence(unread, part, _channels(group, positions)) and exact
        with quiet_evaluation(trial, unread):
            outputs, expected = trial(example), unread(example)
    except Exception:  # without some channels the block's own code may raise anything; then they stay
        return False
    if tuple(outputs.shape[1:]) != layer.output_shape:
        return False
    return not exact or float((outputs - expected).abs().max()) <= EQUAL * float(expected.abs().max())


@torch.no_grad()
def _silence(block: nn.Module, part: Part, channels: Tensor) -> bool:
    """Let nobody read the channels and nothing come in for them; False where removing is not the same as that."""
    indices = part.indices[torch.isin(part.roots, channels)]
    target = block.get_parameter(part.path) if part.parameter else block.get_submodule(part.path)
    if isinstance(target, nn.Parameter):
        target.index_fill_(part.dimension, indices, 0.0)
        return True
    if isinstance(target, (nn.LayerNorm, nn.GroupNorm)) or getattr(target, "groups", 1) not in (1, len(part.indices)):
        return False  # they mix channels, or groups of channels move together
    for weight in (target.weight, target.bias):
        if isinstance(weight, Tensor) and not (part.consumes and weight.ndim == 1 and isinstance(target, LinearMap)):
            weight.index_fill_(1 if part.consumes and weight.ndim > 1 and _dense(target) else 0, indices, 0.0)
    return True


def _dense(target: nn.Module) -> bool:
    return getattr(target, "groups", 1) == 1


def _width(part: LinearMap) -> int:
    return part.in_features if isinstance(part, nn.Linear) else part.in_channels


def _channels_of(part: LinearMap) -> int:
    """The dimension that channels are along in what goes in and out."""
    return -1 if isinstance(part, nn.Linear) else 1


def _importance(block: nn.Module, group: InnerGroup, seen: Mapping[nn.Module, tuple[Tensor, Tensor]]) -> Tensor:
    """How much each channel adds to the maps that consume it, by its position in the groups.

    Without data the weights alone decide.
    """
    total = torch.zeros(group.channels)
    for part in group.parts:
        target = block.get_submodule(part.path) if not part.parameter else None
        if not part.consumes or not isinstance(target, LinearMap):
            continue
        weight, groups = target.weight.detach(), getattr(target, "groups", 1)
        power = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).square().sum((1, 3)).flatten().cpu()
        if target in seen:
            inputs = seen[target][0]
            power = power * inputs.movedim(_channels_of(target), 0).flatten(1).square().mean(1).cpu()
        total.index_add_(0, part.roots, power[part.indices])
    return total.view(group.groups, -1).sum(0)


def _reconstruct(
    block: nn.Module,
    inputs: Tensor,
    before: Mapping[nn.Module, tuple[Tensor, Tensor]],
    widths: Mapping[LinearMap, int],
) -> None:
    """Solve each map that lost inputs, in order, for the outputs that it gave before."""
    for part in dense_parts(block):
        kept_outputs = part in before and before[part][1].shape[_channels_of(part)] == len(part.weight)
        if not kept_outputs or _width(part) == widths[part]:
            continue
        now = watch(block, [part], inputs)
        if part in now:
            solve(part, now[part][0], before[part][1])
