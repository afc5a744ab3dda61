"""Exported ONNX graphs as other tools take them: constants folded, nodes named by the module that they compute."""

from __future__ import annotations

import ast
import contextlib
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

FOLDED = " folded"  # ends the exporter's version: the header of a latency table tells such files from others
# They make other graphs of linear layers than quantizers look for; a session applies them anyway.
_LEFT_TO_SESSIONS = ["MatMulAddFusion"]


def readable(content: bytes, modules: Collection[str] = (), *, inner: str = "") -> bytes:
    """An exported graph, folded and with readable names, as a serialised model.

    Nodes of module `layers.3.conv1` are named `/layers.3/conv1/Conv`. `modules` are the names of all modules of the
    network; `inner` is a wrapper's name for the network.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    _name_nodes(model.graph, modules, inner)
    model.producer_version = model.producer_version.partition("+")[0] + FOLDED
    return _folded(model).SerializeToString()


def module_path(name: str) -> str:
    """The path of the module that a node computes, by the node's name.

    >>> module_path("/layers.3/conv1/Conv_1")
    'layers.3.conv1'
    """
    return name.rpartition("/")[0].strip("/").replace("/", ".")


def foldable(model: Any) -> list[str]:
    """The names of the nodes that depend on no input of an ONNX model."""
    constant = {weight.name for weight in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if all(name in constant for name in node.input if name) and not node.op_type.startswith("Random"):
            constant.update(node.output)
            found.append(node.name)
    return found


def _folded(model: Any) -> Any:
    """The model after ONNX Runtime's basic optimisation, which any of its sessions repeats; as it is where it refuses.

    These rewritings keep to ONNX's own operators and depend on no processor. Extended ones would do neither.
    """
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    kinds = (refusals.Fail, refusals.InvalidGraph, refusals.InvalidArgument, refusals.NotImplemented)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.disable_prepacking", "1")
        with contextlib.suppress(*kinds, refusals.RuntimeException):  # the measurement tells why, later
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_LEFT_TO_SESSIONS,
            )
        if not path.is_file():
            return model
        folded = onnx.load(str(path))
    if {node.domain for node in folded.graph.node} - {"", "ai.onnx"} or not _complete(folded.graph):
        return model
    opsets = [entry for entry in folded.opset_import if entry.domain in ("", "ai.onnx")]
    del folded.opset_import[:]
    folded.opset_import.extend(opsets)
    return folded


def _complete(graph: Any) -> bool:
    """True if every input of a node is there: ONNX Runtime forgets bounds of clippings that it made of two nodes."""
    known = {"", *(value.name for value in (*graph.input, *graph.initializer))}
    known.update(name for node in graph.node for name in node.output)
    return all(name in known for node in graph.node for name in node.input)


def _name_nodes(graph: Any, modules: Collection[str], inner: str) -> None:
    """Name each node by its module and operator, whichever exporter wrote it; drop the exporter's notes."""
    seen: Counter[str] = Counter()
    for node in graph.node:
        name = f"{_scope(_path(node), modules, inner)}/{node.op_type}"
        count, seen[name] = seen[name], seen[name] + 1
        node.name = f"{name}_{count}" if count else name
        del node.metadata_props[:]  # among them are paths of files on this machine


def _path(node: Any) -> list[str]:
    """The modules around a node, each with all of its own name."""
    notes = {note.key: note.value for note in node.metadata_props}
    if scopes := notes.get("pkg.torch.onnx.name_scopes"):  # of the newer exporter; the last one is the operator
        weights = [name for name in list(node.input)[1:] if name.endswith(".weight")]
        path = weights[0].removesuffix(".weight") if weights else [*ast.literal_eval(scopes)[:-1], ""][-2]
        return re.split(r"\.(?!\d+(?:\.|$))", path) if path else []
    parts = node.name.strip("/").split("/")[:-1]
    # A container that is called itself gives "blocks/blocks.0": the longer name says both.
    after = itertools.zip_longest(parts, parts[1:], fillvalue="")
    return [part for part, following in after if not following.startswith(f"{part}.")]


def _scope(path: list[str], modules: Collection[str], inner: str) -> str:
    """A path as `/layers.3/conv1`, where the second call of a module has the name of the first."""
    kept: list[str] = []
    for part in path[1:] if inner and path[:1] == [inner] else path:
        first = re.sub(r"_\d+$", "", part)
        kept.append(first if ".".join([*kept, part]) not in modules and ".".join([*kept, first]) in modules else part)
    return "".join(f"/{part}" for part in kept)
