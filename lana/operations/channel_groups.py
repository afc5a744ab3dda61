"""The channels of a block that go together when some are removed, by Torch-Pruning's dependency graph."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lana.errors import LanaError
from lana.networks.structure import Convolution, quiet_evaluation
from lana.operations.closed_form import LinearMap, watch

LARGEST_GROUP = 1000  # members; those of real blocks have up to some hundred


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """The part of one tensor of weights that goes when channels of its group are removed.

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

    Where convolutions or normalisations run in `groups`, the same positions must go in each of them.
    """

    channels: int
    groups: int
    parts: tuple[Part, ...]


def candidate_groups(block: nn.Module, example: Tensor) -> list[InnerGroup]:
    """Groups of the block; where it attends, or they have no end, those of the parts inside that can be followed.

    Torch-Pruning follows the channels of an attention through every reshape, for minutes and to no avail.
    """
    with _Attending(block) as attending, quiet_evaluation(block):
        block(example)
    if "" not in attending.names:
        with contextlib.suppress(EndlessGroupError):
            return _all_groups(block, example)
    parts = {part: name for name, part in block.named_modules() if name and next(part.children(), None) is not None}
    groups: list[InnerGroup] = []
    followed: list[str] = []
    for part, (inputs, _) in watch(block, parts, example).items():
        inside = any(parts[part].startswith(f"{name}.") for name in followed)
        if parts[part] not in attending.names and not inside and next(part.parameters(), None) is not None:
            with contextlib.suppress(EndlessGroupError):
                groups += [_inside(parts[part], group) for group in _all_groups(copy.deepcopy(part), inputs)]
                followed.append(parts[part])
    # Tokens it can follow, where a block has no such part because it calls its linear maps itself.
    return groups or (_all_groups(block, example) if example.ndim == 3 else [])


def _inside(name: str, group: InnerGroup) -> InnerGroup:
    parts = tuple(dataclasses.replace(part, path=f"{name}.{part.path}" if part.path else name) for part in group.parts)
    return dataclasses.replace(group, parts=parts)


class _Attending(TorchDispatchMode):
    """Notes the submodules in which activations are multiplied with each other, or positions are gathered."""

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
    """A group of channels that grows without end: unequal splits multiplied with each other, as in FocalNet."""


def _bounded_graph() -> Any:
    """A dependency graph that abandons a group beyond `LARGEST_GROUP` members.

    Torch-Pruning compares each member of a group with all others, and knows no limit of its own.
    """
    import torch_pruning

    class BoundedGraph(torch_pruning.DependencyGraph):
        members = 0

        def build_dependency(self, *args: Any, **kwargs: Any) -> Any:
            built = super().build_dependency(*args, **kwargs)
            for node in self.module2node.values():
                for edge in node.dependencies[:1]:  # the search asks it once for each member at this node
                    edge.is_triggered_by = functools.partial(self._counted, edge.is_triggered_by)
            return built

        def get_pruning_group(self, *args: Any, **kwargs: Any) -> Any:
            self.members = 0
            return super().get_pruning_group(*args, **kwargs)

        def _counted(self, is_triggered_by: Callable[[Any], bool], pruning_function: Any) -> bool:
            self.members += 1
            if self.members > LARGEST_GROUP:
                raise EndlessGroupError(f"channels of more than {LARGEST_GROUP} members go together")
            return is_triggered_by(pruning_function)

    return BoundedGraph()


def _all_groups(block: nn.Module, example: Tensor) -> list[InnerGroup]:
    """Everything that Torch-Pruning finds to go together, of inner and of outer channels."""
    block.requires_grad_(True)
    paths = {part: name for name, part in block.named_modules()} | {p: name for name, p in block.named_parameters()}
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph = _bounded_graph().build_dependency(block, example_inputs=example)
        groups = list(graph.get_all_groups(root_module_types=list(get_args(LinearMap))))
    inner = []
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
        inner.append(InnerGroup(channels=len(group[0].idxs), groups=_groups_of(block, parts), parts=tuple(parts)))
    return inner


def _groups_of(block: nn.Module, parts: Sequence[Part]) -> int:
    """In how many groups convolutions (other than depthwise ones) and normalisations treat these channels."""
    modules = [block.get_submodule(part.path) for part in parts if not part.parameter]
    grouped = [m.groups for m in modules if isinstance(m, Convolution) and m.groups < m.in_channels]
    return max([*grouped, *(m.num_groups for m in modules if isinstance(m, nn.GroupNorm)), 1])
