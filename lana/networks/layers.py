"""Where something may be replaced: submodules with one tensor in and one out, found by watching one forward pass.

A residual block, an inverted residual, a transformer block are layers as a whole; what can't be replaced is named with
the reason, and left as it is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from lana.networks.layer_search import LayerSearch, SkippedModule, same_tensors
from lana.networks.observation import ObservedModule, observe
from lana.networks.structure import Convolution, flat_tensors, quiet_evaluation

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
        between: of a span over a plain stack, each normalisation or activation with the number of members before it.
        other_shapes: of a layer that is called several times, the input shapes of all calls but the first.
    """

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layout: str
    macs: int
    members: tuple[str, ...]
    between: tuple[tuple[int, str], ...] = ()
    other_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The submodules that an operation replaces: the members and what runs between them, in order of execution."""
        after = {count: [name for number, name in self.between if number == count] for count, _ in self.between}
        return tuple(part for i, member in enumerate(self.members, 1) for part in (member, *after.get(i, ())))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Layer:
        """The layer from the mapping that `dataclasses.asdict` made of it."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        values["between"] = tuple((count, name) for count, name in values.get("between", ()))
        values["other_shapes"] = tuple(map(tuple, values.get("other_shapes", ())))
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class LayerScan:
    """The result of `find_layers`; layers are in order of execution.

    `unlinked` names layers that form no span with the next, and why. At `borders`, pairs of consecutive layers, the
    output of the first goes to the second and nowhere else.
    """

    layers: tuple[Layer, ...]
    spans: tuple[Layer, ...]
    skipped: tuple[SkippedModule, ...]
    total_macs: int
    unlinked: tuple[SkippedModule, ...] = ()
    borders: tuple[tuple[str, str], ...] = ()


def find_layers(
    model: nn.Module, example_inputs: tuple[Any, ...], *, include: str | Sequence[str] = "*",
    exclude: Sequence[str] = (), predictors: Sequence[str] = (), granularity: str = "block", max_span: int = 1,
) -> LayerScan:  # fmt: skip
    """The replaceable layers of a network, in order of execution; the network is left exactly as it was.

    `include` and `exclude` are globs on dotted paths. Layers that hold one of the `predictors` stay as they are. With
    the granularity "fine", composite layers are looked into as far as there is something replaceable inside. Spans of
    up to `max_span` consecutive layers are found where each feeds only the next.

    >>> import torch
    >>> scan = find_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), (torch.zeros(1, 3, 8, 8),))
    >>> [layer.name for layer in scan.layers]
    ['0', '2']
    """
    seen, work = observe(model, example_inputs)
    total = work.macs
    modules = dict(model.named_modules())
    batch = next(flat_tensors(example_inputs)).shape[0]
    search = LayerSearch(model, modules, seen, total, granularity, batch)
    chosen, referenced = _chosen(search, model, example_inputs)
    layers, passed = [], search.skipped
    for name in sorted(chosen, key=lambda name: seen[name].order):
        reason = ""
        if not _matches(name, [include] if isinstance(include, str) else include):
            reason = "left out by --layers"
        elif _matches(name, exclude):
            reason = "left out by --exclude"
        elif seen[name].macs < NEGLIGIBLE * total:
            reason = "has next to no work"
        elif _holds_any(name, predictors):
            reason = "holds a last predictor; name it in --layers to offer it all the same"
        elif name in referenced:
            reason = "other code reads its parts"
        if reason:
            passed.append(SkippedModule(name=name, reason=reason, macs=seen[name].macs // batch))
        else:
            layers.append(_layer(name, seen, modules, batch))
    links = _links(layers, modules, seen, work.readers, NEGLIGIBLE * total)
    inner = sorted({name for link in links if not isinstance(link, str) for name in link})
    links = _without(externally_referenced(model, inner, example_inputs) if inner else set(), links)
    return LayerScan(
        layers=tuple(layers),
        spans=tuple(_spans(layers, links, max_span)),
        skipped=tuple(passed),
        total_macs=total // batch,
        unlinked=_unlinked(layers, links),
        borders=_borders(layers, links),
    )


def _holds_any(name: str, parts: Sequence[str]) -> bool:
    return any(part == name or part.startswith(f"{name}.") for part in parts)


def _chosen(search: LayerSearch, model: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[list[str], set[str]]:
    """The layers that the search finds, and those of them whose parts other code reads."""
    chosen, referenced = search.run(), set[str]()
    candidates = chosen
    while read := externally_referenced(model, candidates, example_inputs):  # what they hold may yet be replaced
        within = {name: search.run(name) for name in sorted(read)}
        referenced |= {name for name, inner in within.items() if not inner}
        candidates = [path for inner in within.values() for path in inner]
        chosen = [name for name in chosen if not within.get(name)] + candidates
    return chosen, referenced


def externally_referenced(model: nn.Module, names: Sequence[str], example_inputs: tuple[Any, ...]) -> set[str]:
    """The layers that other code reads: their weights or parts by name, or themselves by their class.

    A replacement would lack these parts, or the other code would not find it.
    """
    from lana.networks.surgery import hidden

    def runs(some: Sequence[str]) -> bool:
        try:
            with quiet_evaluation(model), hidden(model, some):
                model(*example_inputs)
        except Exception:  # the network itself runs, so other code reads a weight, a part by its number or the class
            return False
        return True

    return set() if runs(names) else {name for name in names if not runs([name])}


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob.strip()) for glob in globs)


def _layer(name: str, seen: Mapping[str, ObservedModule], modules: Mapping[str, nn.Module], batch: int) -> Layer:
    (source, target), *others = [shapes for shapes in seen[name].shapes if shapes is not None]
    return Layer(
        name=name,
        input_shape=source[1:],
        output_shape=target[1:],
        other_shapes=tuple(before[1:] for before, _ in others),
        layout=_layout(name, seen, modules),
        macs=seen[name].macs // batch,
        members=(name,),
    )


def _layout(name: str, seen: Mapping[str, ObservedModule], modules: Mapping[str, nn.Module]) -> str:
    """The axis of the channels; for positions, the one that the first decisive part with weights reads."""
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


Seen = Mapping[str, ObservedModule]
Readers = Mapping[int, list[list[ObservedModule]]]
Link = list[str] | str  # what runs between two layers, or why they form no span


def _spans(layers: Sequence[Layer], links: Sequence[Link], max_span: int) -> Iterator[Layer]:
    for first in range(len(layers)):
        for count in range(2, min(max_span, len(layers) - first) + 1):
            part, between = layers[first : first + count], links[first : first + count - 1]
            if isinstance(between[-1], str):
                break
            yield Layer(
                name="+".join(layer.name for layer in part),
                input_shape=part[0].input_shape,
                output_shape=part[-1].output_shape,
                layout=part[0].layout,
                macs=sum(layer.macs for layer in part),
                members=tuple(layer.name for layer in part),
                between=tuple((i, name) for i, names in enumerate(between, 1) for name in names),
            )


def _without(read: set[str], links: Sequence[Link]) -> list[Link]:
    """The links; those over what other code reads are none."""
    return [
        "other code reads what runs between" if not isinstance(link, str) and read & {*link} else link for link in links
    ]


def _borders(layers: Sequence[Layer], links: Sequence[Link]) -> tuple[tuple[str, str], ...]:
    pairs = zip(pairwise(layers), links, strict=True)
    return tuple((ours.name, theirs.name) for (ours, theirs), link in pairs if not isinstance(link, str))


def _unlinked(layers: Sequence[Layer], links: Sequence[Link]) -> tuple[SkippedModule, ...]:
    return tuple(
        SkippedModule(name=f"{ours.name} and {theirs.name}", reason=link, macs=ours.macs + theirs.macs)
        for (ours, theirs), link in zip(pairwise(layers), links, strict=True)
        if isinstance(link, str)
    )


def _links(
    layers: Sequence[Layer], modules: Mapping[str, nn.Module], seen: Seen, readers: Readers, negligible: float
) -> list[Link]:
    leaves = [
        name
        for name in sorted(seen, key=lambda name: seen[name].order)
        if seen[name].calls == 1 and seen[name].macs < negligible and next(modules[name].children(), None) is None
    ]
    links: list[Link] = []
    for ours, theirs in pairwise(layers):
        plain = all(isinstance(modules[layer.name], Convolution | nn.Linear) for layer in (ours, theirs))
        if ours.other_shapes or theirs.other_shapes:
            links.append("one of them is called several times")
        elif plain and len(ours.input_shape) != len(theirs.output_shape):
            links.append("they work on different numbers of dimensions")
        else:
            links.append(_linked(seen[ours.name], seen[theirs.name], leaves if plain else [], seen, readers))
    return links


def _linked(ours: ObservedModule, theirs: ObservedModule, idle: Sequence[str], seen: Seen, readers: Readers) -> Link:
    """The `idle` submodules between two layers, each feeding the next alone; or why there is no such chain.

    Blocks form spans where nothing is between. In plain stacks, normalisation and activation stand beside the maps.
    """
    between, current = [], ours
    for name in idle:
        if ours.order < seen[name].order < theirs.order and _feeds(current, seen[name]):
            between.append(name)
            current = seen[name]
    if not _feeds(current, theirs):
        return "other modules or code run between them"
    chain = [ours, *(seen[name] for name in between), theirs]
    uses = [use for one in chain[:-1] for use in readers.get(id(one.outputs[0]), [])]
    if not all(any(running is one for one in chain for running in use) for use in uses):
        return "the output of the first goes elsewhere too"
    return between


def _feeds(ours: ObservedModule, theirs: ObservedModule) -> bool:
    """True if an output is the next one's input, unchanged.

    A layer may change its own output before it returns, e.g. by a rectifier in place.
    """
    return same_tensors(ours.outputs, theirs.inputs) and ours.versions == theirs.entered
