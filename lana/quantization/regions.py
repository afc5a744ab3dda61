"""The int8 part of a network: layers are marked during the export, and their nodes are found in the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from torch import nn

from lana.networks.surgery import installed

INT8, FLOAT = "int8_layer", "fp32_layer"  # exporters put the path of a module into the names of its nodes

Neighbours = dict[str, list[onnx.NodeProto]]  # node → the nodes that it shares a tensor with


class Region(nn.Module):
    """A layer under a name that every node of it carries in the exported file."""

    def __init__(self, layer: nn.Module, mark: str) -> None:
        super().__init__()
        self.mark = mark
        self.add_module(mark, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(self.mark)(*args, **kwargs)


@contextlib.contextmanager
def marked(network: nn.Module, layers: Mapping[str, str]) -> Iterator[nn.Module]:
    """While open, each of `layers`, dotted path → precision, is marked; afterwards the network is as it was."""
    regions = {
        name: Region(network.get_submodule(name), INT8 if precision == "int8" else FLOAT)
        for name, precision in layers.items()
    }
    with installed(network, regions):
        yield network


def int8_nodes(graph: onnx.GraphProto) -> list[str]:
    """The names of the nodes of int8 layers, and of those that stand between int8 layers only.

    Nodes outside of every layer (a pooling, a sum) are int8 where they touch an int8 layer and no other: so no tensor
    is converted for their sake.
    """
    chosen, neighbours = {node.name for node in graph.node if _has(node.name, INT8)}, _neighbours(graph)
    for part in _unmarked_parts(graph, neighbours):
        around = [other.name for node in part for other in neighbours[node.name]]
        if any(_has(name, INT8) for name in around) and not any(_has(name, FLOAT) for name in around):
            chosen |= {node.name for node in part}
    return [node.name for node in graph.node if node.name in chosen]


def _has(name: str, mark: str) -> bool:
    """True if the path of a node's module leads through a marked one, alone or as the parent of a part.

    >>> _has("/0/int8_layer/conv1/Conv", INT8), _has("/0/int8_layer.2/Relu", INT8), _has("/0/Conv", INT8)
    (True, True, False)
    """
    return any(part.partition(".")[0] == mark for part in name.split("/"))


def _unmarked_parts(graph: onnx.GraphProto, neighbours: Neighbours) -> list[list[onnx.NodeProto]]:
    """The nodes of no layer, those that are connected together."""
    free = {node.name: node for node in graph.node if not (_has(node.name, INT8) or _has(node.name, FLOAT))}
    parts = []
    while free:
        _, first = free.popitem()
        part, waiting = [first], [first]
        while waiting:
            for other in neighbours[waiting.pop().name]:
                if other.name in free:
                    waiting.append(free.pop(other.name))
                    part.append(other)
        parts.append(part)
    return parts


def _neighbours(graph: onnx.GraphProto) -> Neighbours:
    made_by = {output: node for node in graph.node for output in node.output}
    neighbours: Neighbours = {node.name: [] for node in graph.node}
    for node in graph.node:
        for name in node.input:
            if name in made_by:
                neighbours[node.name].append(made_by[name])
                neighbours[made_by[name].name].append(node)
    return neighbours
