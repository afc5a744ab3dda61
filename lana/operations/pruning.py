"""Structured pruning inside a block: the teacher's weights without the channels that matter least.

Torch-Pruning's dependency graph tells which channels go together; it is made once for each structure of a block.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lana.errors import LanaError
from lana.networks.layers import Layer
from lana.networks.structure import Convolution, quiet_evaluation
from lana.operations.base import Features, example_of, once_a_structure
from lana.operations.closed_form import Map, dense_parts, solve, watch

LARGEST_GROUP = 1000  # members; those of real blocks have up to some hundred
FEWEST_CHANNELS = 8  # of a group, for there to be something to choose from
EQUAL = 1e-3  # relative: a block without channels that nobody reads gives what it gave


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What happens to one tensor of weights when channels of its group are removed.

    `indices[i]` of the tensor goes when channel `roots[i]` of the group goes.
    """

    path: str
    handler: Callable[[Any, list[int]], Any]
    dimension: int
    consumes: bool
    parameter: bool
    indices: Tensor
    roots: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class InnerGroup:
    """Channels of a block that neither its input nor its output fixes.

    Where convolutions or normalisations run in `groups`, the same places must go in each of them.
    """

    channels: int
    groups: int
    parts: tuple[Part, ...]


def can_prune(layer: Layer, module: nn.Module) -> bool:
    """Whether there are channels inside that neither input nor output fixes."""
    return len(layer.members) == 1 and bool(inner_groups(layer, module))


def pruned(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's block with a share `w` of its inner channels.

    On features, the channels are kept that contribute most to what consumes them, and the consuming convolutions
    are solved again so that they give what they gave with all channels (as in channel pruning, He et al. 2017).
    """
    block = copy.deepcopy(module).eval()
    if p["w"] >= 1:
        return block
    maps = [part for part in block.modules() if isinstance(part, Map)]
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
    """How many channels of each of its groups stay: the mere share, since the table tells which widths are fast."""
    return max(1, round(group.channels // group.groups * share))


@once_a_structure
def inner_groups(layer: Layer, module: nn.Module) -> tuple[InnerGroup, ...]:
    """The groups of channels that can be removed while the block still fits its layer; none where that is unclear."""
    try:
        return _find_groups(layer, copy.deepcopy(module).cpu().eval())
    except ImportError:  # else nothing at all would be offered, without a word
        raise
    except Exception:  # a block that the dependency graph cannot follow is not pruned
        return ()


def _find_groups(layer: Layer, block: nn.Module) -> tuple[InnerGroup, ...]:
    found = []
    for group in _candidates(block, example_of(layer)):
        half = group.channels // group.groups // 2
        if group.channels >= FEWEST_CHANNELS and half and _fits(layer, block, [(group, torch.arange(half))]):
            found.append(group)
    halves = [(group, torch.arange(group.channels // group.groups // 2)) for group in found]
    return tuple(found) if _fits(layer, block, halves) else ()


def _candidates(block: nn.Module, example: Tensor) -> list[InnerGroup]:
    """Groups of the block; where it attends, or they have no end, those of the parts inside that can be followed.

    Torch-Pruning follows the channels of an attention through every reshape, for minutes and to no avail.
    """
    with _Attending(block) as attending, quiet_evaluation(block):
        block(example)
    if "" not in attending.names:
        with contextlib.suppress(EndlessGroupError):
            return _all_groups(block, example)
    parts = {part: name for name, part in block.named_modules() if name and next(part.children(), None) is not None}
    found: list[InnerGroup] = []
    looked: list[str] = []
    for part, (inputs, _) in watch(block, parts, example).items():
        looked_into = any(parts[part].startswith(f"{name}.") for name in looked)
        if parts[part] not in attending.names and not looked_into and next(part.parameters(), None) is not None:
            with contextlib.suppress(EndlessGroupError):
                found += [_inside(parts[part], group) for group in _all_groups(copy.deepcopy(part), inputs)]
                looked.append(parts[part])
    # Tokens it can follow, where a block has no such part because it names its maps itself.
    return found or (_all_groups(block, example) if example.ndim == 3 else [])


def _inside(name: str, group: InnerGroup) -> InnerGroup:
    parts = tuple(dataclasses.replace(part, path=f"{name}.{part.path}" if part.path else name) for part in group.parts)
    return dataclasses.replace(group, parts=parts)


class _Attending(TorchDispatchMode):
    """Notes the submodules in which activations are multiplied with each other, or places are gathered."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._running: list[str] = []
        self._hooks: list[Any] = []
        for name, part in block.named_modules():
            self._hooks.append(part.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)))
            self._hooks.append(part.register_forward_hook(lambda *_, name=name: self._running.remove(name)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in func._schema.name for word in ("bmm", "attention", "im2col", "unfold")):
            self.names.update(self._running)
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()


class EndlessGroupError(LanaError):
    """A group of channels that grows on and on: unequal splits multiplied with each other, as in FocalNet."""


@contextlib.contextmanager
def _bounded_groups() -> Iterator[None]:
    """Torch-Pruning compares each member of a group with all others and knows no limit of its own."""
    from torch_pruning.dependency import graph

    class Bounded(graph.Group):
        def add_dep(self, *args: Any, **kwargs: Any) -> None:
            super().add_dep(*args, **kwargs)
            if len(self) > LARGEST_GROUP:
                raise EndlessGroupError(f"more than {LARGEST_GROUP} members")

    with mock.patch.object(graph, "Group", Bounded):
        yield


def _all_groups(block: nn.Module, example: Tensor) -> list[InnerGroup]:
    """Everything that Torch-Pruning finds to go together, of inner and of outer channels."""
    import torch_pruning

    block.requires_grad_(True)
    paths = {part: name for name, part in block.named_modules()} | {p: name for name, p in block.named_parameters()}
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(block, example_inputs=example)
            with _bounded_groups():
                groups = list(graph.get_all_groups(root_module_types=list(get_args(Map))))
        finally:
            logging.disable(logging.NOTSET)
    found = []
    for group in groups:
        parts = []
        for item in group:
            target = item.dep.target
            if target.module not in paths:  # a reshape, an addition: nothing is stored there
                continue
            parts.append(
                Part(
                    path=paths[target.module],
                    handler=item.dep.handler,
                    dimension=target.pruning_dim,
                    consumes="in_channels" in item.dep.handler.__name__,
                    parameter=isinstance(target.module, nn.Parameter),
                    indices=torch.tensor([getattr(i, "idx", i) for i in item.idxs]),
                    roots=torch.tensor(list(item.root_idxs)),
                )
            )
        found.append(InnerGroup(channels=len(group[0].idxs), groups=_groups_of(block, parts), parts=tuple(parts)))
    return found


def _groups_of(block: nn.Module, parts: Sequence[Part]) -> int:
    """In how many groups convolutions (other than depthwise ones) and normalisations treat these channels."""
    modules = [block.get_submodule(part.path) for part in parts if not part.parameter]
    grouped = [m.groups for m in modules if isinstance(m, Convolution) and m.groups < m.in_channels]
    return max([*grouped, *(m.num_groups for m in modules if isinstance(m, nn.GroupNorm)), 1])


Cuts = Sequence[tuple[InnerGroup, Tensor]]  # which places of each of a group's groups go


def remove(block: nn.Module, cuts: Cuts) -> None:
    """Take channels out of a block, in place."""
    gone: dict[tuple[str, str], tuple[Part, set[int]]] = {}
    for group, places in cuts:
        for part in group.parts:
            indices = part.indices[torch.isin(part.roots, _channels(group, places))].tolist()
            gone.setdefault((part.path, part.handler.__name__), (part, set()))[1].update(indices)
    for (path, _), (part, channels) in gone.items():
        part.handler.__self__.pruning_dim = part.dimension  # type: ignore[attr-defined]  # read by some handlers
        if part.parameter:
            parent, _, name = path.rpartition(".")
            setattr(block.get_submodule(parent), name, part.handler(block.get_parameter(path), sorted(channels)))
        else:
            part.handler(block.get_submodule(path), sorted(channels))


def _channels(group: InnerGroup, places: Tensor) -> Tensor:
    size = group.channels // group.groups
    return (torch.arange(group.groups)[:, None] * size + places.cpu()[None]).flatten()


def _fits(layer: Layer, block: nn.Module, cuts: Cuts) -> bool:
    """Whether the block runs without these channels and gives what it gives when nobody reads them.

    A block without part of an outer group does not run, or gives another shape; one in which places have another
    meaning afterwards (the heads of an attention) gives something else.
    """
    trial, unread = copy.deepcopy(block), copy.deepcopy(block)
    example = example_of(layer)
    exact = True
    try:
        remove(trial, cuts)
        for group, places in cuts:
            for part in group.parts:
                exact = _silence(unread, part, _channels(group, places)) and exact
        with quiet_evaluation(trial, unread):
            found, expected = trial(example), unread(example)
    except Exception:  # in whatever way a copy breaks, its channels are not to be removed
        return False
    if tuple(found.shape[1:]) != layer.output_shape:
        return False
    return not exact or float((found - expected).abs().max()) <= EQUAL * float(expected.abs().max())


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
        if isinstance(weight, Tensor) and not (part.consumes and weight.ndim == 1 and isinstance(target, Map)):
            weight.index_fill_(1 if part.consumes and weight.ndim > 1 and _dense(target) else 0, indices, 0.0)
    return True


def _dense(target: nn.Module) -> bool:
    return getattr(target, "groups", 1) == 1


def _width(part: Map) -> int:
    return part.in_features if isinstance(part, nn.Linear) else part.in_channels


def _channels_of(part: Map) -> int:
    """The dimension that channels are along in what goes in and out."""
    return -1 if isinstance(part, nn.Linear) else 1


def _importance(block: nn.Module, group: InnerGroup, seen: Mapping[nn.Module, tuple[Tensor, Tensor]]) -> Tensor:
    """What each channel adds to the maps that consume it, by weights alone without data; over places of the groups."""
    total = torch.zeros(group.channels)
    for part in group.parts:
        target = block.get_submodule(part.path) if not part.parameter else None
        if not part.consumes or not isinstance(target, Map):
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
    widths: Mapping[Map, int],
) -> None:
    """Solve each map that lost inputs, in order, for the outputs that it gave before."""
    for part in dense_parts(block):
        kept_outputs = part in before and before[part][1].shape[_channels_of(part)] == len(part.weight)
        if not kept_outputs or _width(part) == widths[part]:
            continue
        now = watch(block, [part], inputs)
        if part in now:
            solve(part, now[part][0], before[part][1])
