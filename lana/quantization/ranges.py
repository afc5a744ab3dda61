"""The ranges of a file's tensors on real inputs: the least and the largest number of each.

ONNX Runtime's own calibrators keep every tensor of many inputs, and spin on all processors while they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lana.exporters.parity import onnx_session

Ranges = dict[str, tuple[np.float32, np.float32]]


def observed_ranges(path: Path, inputs: Sequence[np.ndarray]) -> Ranges:
    """Tensor → its range over all inputs; one input is in memory at a time."""
    model = onnx.load(str(path))
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    before = [value.name for value in model.graph.output]
    names = [name for name in _tensors(model.graph) if types.get(name) == TensorProto.FLOAT and name not in before]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    watched = path.with_name("watched.onnx")
    onnx.save(model, str(watched))
    session, given = onnx_session(watched), model.graph.input[0].name
    low: dict[str, np.float32] = {}
    high: dict[str, np.float32] = {}
    for one in inputs:
        fed = np.ascontiguousarray(one, dtype=np.float32)
        outputs = zip([*before, *names], session.run(None, {given: fed}), strict=True)
        for name, values in [(given, fed), *outputs]:
            low[name] = np.minimum(low.get(name, np.float32(np.inf)), values.min())  # NaN stays
            high[name] = np.maximum(high.get(name, np.float32(-np.inf)), values.max())
    return {name: (low[name], high[name]) for name in low}


def placeholders(graph: onnx.GraphProto) -> Ranges:
    """Ranges in place of observed ones: latency does not depend on them."""
    return dict.fromkeys(_tensors(graph), (np.float32(-1), np.float32(3)))


def _tensors(graph: onnx.GraphProto) -> list[str]:
    weights = {weight.name for weight in graph.initializer}
    names = (name for node in graph.node for name in (*node.input, *node.output) if name and name not in weights)
    return list(dict.fromkeys(names))
