"""Where something may be replaced: submodules with one tensor in and one out, found by watching one forward pass.

A residual block, an inverted residual, a transformer block are layers as a whole; what can't be replaced is named with
the reason, and left as it is.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lana.binding import gives_one_tensor, says_more, says_what_is_bound
from lana.structure import Convolution, flat_tensors, macs_of, quiet_evaluation

TOO_LARGE = 0.3  # of the network's work: what holds more is looked into rather than replaced as a whole
NEGLIGIBLE = 0.002  # of the network's work: less is not worth a choice


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A replaceable position.

    Attributes:
        name: dotted path of the submodule in the teacher; of a span, its members joined by "+".
        input_shape, output_shape: without the batch.
        layout: "nchw" | "nhwc" | "ncl" | "ntc" | "ncdhw" | "ndhwc" | "nc".
        macs: multiply-adds for one example.
        members: the submodules it covers, in order of execution.
    """

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layout: str
    macs: int
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A submodule that is left as it is, and why; its multiply-adds are for one example."""

    name: str
    reason: str
    macs: int


@dataclass(frozen=True, kw_only=True)
class LayerScan:
    """What `find_layers` found; layers are in order of execution."""

    layers: tuple[Layer, ...]
    spans: tuple[Layer, ...]
    passed_over: tuple[PassedOver, ...]
    total_macs: int


@dataclass
class _Seen:
    """What one forward pass showed of a submodule."""

    calls: int = 0
    order: int = -1
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    entered: list[int] = field(default_factory=list)  # versions of the inputs: code before may have worked in place
    versions: list[int] = field(default_factory=list)  # of the outputs: code around may go on in place
    other_arguments: bool = False
    plain_output: bool = True
    macs: int = 0


class _CountWork(TorchDispatchMode):
    """Adds each operator's multiply-adds to every submodule that is running, and notes who reads which tensor."""

    def __init__(self, running: list[_Seen]) -> None:
        super().__init__()
        self.running = running
        self.macs = 0
        self.readers: dict[int, list[list[_Seen]]] = {}  # id of a submodule's output → what ran at each use of it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in flat_tensors([args, kwargs]):
            if id(tensor) in self.readers:
                self.readers[id(tensor)].append(list(self.running))
        out = func(*args, **(kwargs or {}))
        macs = macs_of(func, args, kwargs or {}, out)
        self.macs += macs
        for seen in self.running:
            seen.macs += macs
        return out


def _watch(model: nn.Module, example_inputs: Sequence[Any]) -> tuple[dict[str, _Seen], _CountWork]:
    """One forward pass in evaluation mode, with every submodule's calls, tensors and work recorded."""
    seen = {name: _Seen() for name, _ in model.named_modules()}
    running: list[_Seen] = []
    count = _CountWork(running)
    order = iter(range(10**9))
    hooks = []

    def before(record: _Seen) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            record.calls += 1
            record.order = next(order)
            bound = says_what_is_bound(module, args, kwargs)
            record.inputs = list(flat_tensors([args, kwargs]))[: 1 if bound else None]
            record.entered = [tensor._version for tensor in record.inputs]
            record.other_arguments = not bound and says_more(module, args, kwargs)
            running.append(record)

        return hook

    def after(record: _Seen) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            running.remove(record)
            record.outputs = list(flat_tensors(output))
            record.versions = [tensor._version for tensor in record.outputs]
            record.plain_output = gives_one_tensor(module, output)
            for tensor in record.outputs:
                count.readers.setdefault(id(tensor), [])

        return hook

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(before(seen[name]), with_kwargs=True))
        hooks.append(module.register_forward_hook(after(seen[name])))
    try:
        with quiet_evaluation(model), count:
            output = model(*example_inputs)
        for tensor in flat_tensors(output):
            count.readers.setdefault(id(tensor), []).append([])
    finally:
        for hook in hooks:
            hook.remove()
    return seen, count


def find_layers(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    include: str | Sequence[str] = "*",
    exclude: Sequence[str] = (),
    granularity: str = "block",
    max_span: int = 1,
) -> LayerScan:
    """The replaceable layers of a network, in order of execution; the network is left exactly as it was.

    `include` and `exclude` are globs on dotted paths. With the granularity "fine", composite layers are looked into
    as far as there is something replaceable inside. Spans of up to `max_span` consecutive layers are found where each
    feeds only the next.

    >>> import torch
    >>> scan = find_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), (torch.zeros(1, 3, 8, 8),))
    >>> [layer.name for layer in scan.layers]
    ['0', '2']
    """
    seen, work = _watch(model, example_inputs)
    total = work.macs
    modules = dict(model.named_modules())
    batch = next(flat_tensors(example_inputs)).shape[0]
    search = _Search(model, modules, seen, total, granularity, batch)
    chosen, bound = search.run(), set[str]()
    candidates = chosen
    while read := looked_into(model, candidates, example_inputs):  # what they hold may yet be replaced
        within = {name: search.run(name) for name in sorted(read)}
        bound |= {name for name, inner in within.items() if not inner}
        candidates = [path for inner in within.values() for path in inner]
        chosen = [name for name in chosen if not within.get(name)] + candidates
    layers, passed = [], search.passed_over
    for name in sorted(chosen, key=lambda name: seen[name].order):
        reason = ""
        if not _matches(name, [include] if isinstance(include, str) else include):
            reason = "left out by --layers"
        elif _matches(name, exclude):
            reason = "left out by --exclude"
        elif seen[name].macs < NEGLIGIBLE * total:
            reason = "has next to no work"
        elif name in bound:
            reason = "other code reads its parts"
        if reason:
            passed.append(PassedOver(name=name, reason=reason, macs=seen[name].macs // batch))
        else:
            layers.append(_layer(name, seen, modules, batch))
    spans = tuple(_spans(layers, seen, work.readers, max_span))
    return LayerScan(layers=tuple(layers), spans=spans, passed_over=tuple(passed), total_macs=total // batch)


def looked_into(model: nn.Module, names: Sequence[str], example_inputs: tuple[Any, ...]) -> set[str]:
    """The layers whose weights or parts are read by name elsewhere, or that are looked for by their class: what stands
    there instead would not have them, or not be found."""
    from lana.features import hidden

    def runs(some: Sequence[str]) -> bool:
        try:
            with quiet_evaluation(model), hidden(model, some):
                model(*example_inputs)
        except Exception:  # a weight of it, a part by its number, its class: the network runs, so this is to blame
            return False
        return True

    return set() if runs(names) else {name for name in names if not runs([name])}


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob.strip()) for glob in globs)


class _Search:
    """Walks from the root to the largest submodules that are blocks."""

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        seen: Mapping[str, _Seen],
        total: int,
        granularity: str,
        batch: int,
    ) -> None:
        self.batch = batch
        self.model, self.modules, self.seen, self.total = model, modules, seen, max(total, 1)
        self.fine = granularity == "fine"
        self.passed_over: list[PassedOver] = []
        self.owners: dict[int, set[str]] = {}
        self.instances = Counter(type(module) for module in modules.values())
        for name, module in model.named_modules(remove_duplicate=False):
            for parameter in module.parameters(recurse=False):
                self.owners.setdefault(id(parameter), set()).add(name)
        # A class that is a block once is a block everywhere: an inverted residual that changes the shape is a plain
        # chain of convolutions, yet belongs among its kind.
        self.block_classes = {
            type(modules[name])
            for name in modules
            if name and self._is_block(name) and not _is_leaf(modules[name]) and not _is_container(modules[name])
        }

    def run(self, within: str = "") -> list[str]:
        """The layers inside of the network, or of a submodule that cannot be replaced as a whole."""
        return list(self._descend(within, inside=True))

    def _descend(self, name: str, *, inside: bool = False) -> Iterator[str]:
        if not inside and self.seen[name].calls == 0:  # a list of modules, or a part that is not used
            used = any(self.seen[path].calls for path in self.seen if path.startswith(f"{name}."))
            if not used and next(self.modules[name].parameters(), None) is not None:
                self.passed_over.append(PassedOver(name=name, reason=self._why_not(name), macs=0))
            yield from self._children_layers(name) if used else ()
            return
        if not inside and self.seen[name].macs == 0:
            return
        reason = "" if inside else self._why_not(name)
        stop = not inside and (self._is_block(name) or type(self.modules[name]) in self.block_classes)
        stop = stop and not self._is_stage(name)
        if stop and not reason and not self._too_large(name):
            inner = list(self._children_layers(name)) if self.fine else []
            yield from inner or [name]
            return
        below = list(self._children_layers(name))
        if below:
            yield from below
        elif not inside and not reason and not _only_attends(self.modules[name]):
            yield name
        elif reason:
            self.passed_over.append(PassedOver(name=name, reason=reason, macs=self.seen[name].macs // self.batch))

    def _children_layers(self, name: str) -> Iterator[str]:
        for child, _ in self.modules[name].named_children():
            path = f"{name}.{child}" if name else child
            if path in self.seen:
                yield from self._descend(path)

    def _too_large(self, name: str) -> bool:
        """Whether to look inside: it holds much of the network, and is no block that is repeated."""
        repeated = self.instances[type(self.modules[name])] > 1 and not _is_container(self.modules[name])
        return self.seen[name].macs > TOO_LARGE * self.total and not repeated and bool(self._working_children(name))

    def _working_children(self, name: str) -> list[str]:
        prefix = f"{name}." if name else ""
        children = [f"{prefix}{child}" for child, _ in self.modules[name].named_children()]
        return [child for child in children if child in self.seen and self.seen[child].macs > 0]

    def _is_block(self, name: str) -> bool:
        """Whether a submodule is more than a chain of working children: it adds a shortcut, gates or attends."""
        children = self._working_children(name)
        if not children:
            return not self._why_not(name)
        if len(children) == 1 and self._passes_through(name, children[0]):
            return self._is_block(children[0])
        if len(children) == 1:
            return not self._why_not(name)
        if self._is_chain(children) or self._is_stage(name):
            return False
        return not self._why_not(name) and not self._too_large(name)

    def _is_stage(self, name: str) -> bool:
        """Whether blocks of one class run one after the other inside: those are the layers, not the whole."""
        prefix = f"{name}." if name else ""
        given: dict[tuple[type, int], bool] = {}
        inside = [path for path in self.modules if path.startswith(prefix) and path != name and path in self.seen]
        for path in sorted(inside, key=lambda path: self.seen[path].order):
            seen, module = self.seen[path], self.modules[path]
            if _is_container(module) or len(seen.inputs) != 1 or len(seen.outputs) != 1:
                continue
            if len(self._working_children(path)) < 2 or self._of_parts(path):
                continue
            if (type(module), id(seen.inputs[0])) in given:
                return True
            given[type(module), id(seen.outputs[0])] = True
        return False

    def _of_parts(self, name: str) -> bool:
        """Whether it works on windows, patches or frames as if each were an example: their number is no setting."""
        return any(tensor.ndim > 0 and tensor.shape[0] != self.batch for tensor in self.seen[name].inputs)

    def _passes_through(self, name: str, child: str) -> bool:
        ours, theirs = self.seen[name], self.seen[child]
        unchanged = _same(ours.outputs, theirs.outputs) and ours.versions == theirs.versions
        return _same(ours.inputs, theirs.inputs) and unchanged

    def _is_chain(self, children: Sequence[str]) -> bool:
        """Whether the children stand in a container that runs one after the other."""
        return _is_container(self.modules[children[0].rpartition(".")[0]])

    def _why_not(self, name: str) -> str:
        seen, module = self.seen[name], self.modules[name]
        if seen.calls == 0:
            return "never called in a forward pass"
        if seen.calls > 1:
            return f"called {seen.calls} times in a forward pass"
        if len(seen.inputs) != 1 or seen.other_arguments:
            return f"takes {len(seen.inputs)} tensors or other arguments beside one tensor"
        if not seen.plain_output or len(seen.outputs) != 1:
            return "returns something other than one tensor"
        source, target = seen.inputs[0], seen.outputs[0]
        if not source.is_floating_point() or not target.is_floating_point():
            return "works on integers"
        if self._of_parts(name):
            return f"has {source.shape[0]} along its first dimension for a batch of {self.batch}"
        if source.ndim > 5:
            return f"works on {source.ndim} dimensions, the batch one of them; a layer has 2 to 5"
        if source.ndim != target.ndim or source.ndim < 2 or source.shape[0] != target.shape[0]:
            return f"turns shape {tuple(source.shape)} into {tuple(target.shape)}"
        prefix = f"{name}." if name else ""
        for parameter in module.parameters():
            if any(owner != name and not owner.startswith(prefix) for owner in self.owners[id(parameter)]):
                return "shares parameters with another submodule"
        return ""


def _is_container(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward or isinstance(module, (nn.ModuleList, nn.ModuleDict))


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _only_attends(module: nn.Module) -> bool:
    """Work without weights (pooling as a convolution, attention's products) is nothing to replace."""
    return next(module.parameters(), None) is None


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _layer(name: str, seen: Mapping[str, _Seen], modules: Mapping[str, nn.Module], batch: int) -> Layer:
    source, target = seen[name].inputs[0], seen[name].outputs[0]
    return Layer(
        name=name,
        input_shape=tuple(source.shape[1:]),
        output_shape=tuple(target.shape[1:]),
        layout=_layout(name, seen, modules),
        macs=seen[name].macs // batch,
        members=(name,),
    )


def _layout(name: str, seen: Mapping[str, _Seen], modules: Mapping[str, nn.Module]) -> str:
    """Where the channels are: of places, where the first part with weights that tells reads them."""
    source = seen[name].inputs[0]
    if source.ndim == 2:
        return "nc"
    first, last = {3: ("ncl", "ntc"), 4: ("nchw", "nhwc"), 5: ("ncdhw", "ndhwc")}[source.ndim]
    inside = [path for path in modules if (path == name or path.startswith(f"{name}.")) and seen[path].calls]
    for path in sorted(inside, key=lambda path: seen[path].order):
        part, read = modules[path], seen[path].inputs
        if not read or read[0].shape != source.shape:
            continue
        if isinstance(part, Convolution | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            return first
        if isinstance(part, nn.Linear):
            return last
        if isinstance(part, nn.LayerNorm) and source.shape[1] != source.shape[-1]:
            return last if part.normalized_shape[-1] == source.shape[-1] else first
    return last if source.ndim == 3 else first


def _spans(
    layers: Sequence[Layer], seen: Mapping[str, _Seen], readers: Mapping[int, list[list[_Seen]]], max_span: int
) -> Iterator[Layer]:
    for first in range(len(layers)):
        for count in range(2, max_span + 1):
            part = layers[first : first + count]
            feeds = all(_feeds_only(seen[ours.name], seen[theirs.name], readers) for ours, theirs in pairwise(part))
            if len(part) < count or not feeds:
                break
            yield Layer(
                name="+".join(layer.name for layer in part),
                input_shape=part[0].input_shape,
                output_shape=part[-1].output_shape,
                layout=part[0].layout,
                macs=sum(layer.macs for layer in part),
                members=tuple(layer.name for layer in part),
            )


def _feeds_only(ours: _Seen, theirs: _Seen, readers: Mapping[int, list[list[_Seen]]]) -> bool:
    """Whether an output goes to the next layer as it is, and nowhere else (to a decoder, out of the network …).

    What a layer does with its own output before it is done, like a rectifier in place, is its own affair.
    """
    unchanged = _same(ours.outputs, theirs.inputs) and ours.versions == theirs.entered
    uses = readers.get(id(ours.outputs[0]), [])
    return unchanged and all(any(running is ours or running is theirs for running in use) for use in uses)
