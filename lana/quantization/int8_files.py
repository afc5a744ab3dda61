"""Int8 files of operations and networks: written for a runtime, and run as modules."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lana.common.files import write_atomically
from lana.exporters.computation import input_spec
from lana.exporters.folding import FOLDED
from lana.exporters.onnx_export import OPSET, export_onnx
from lana.exporters.parity import onnx_session, run_onnx
from lana.networks.structure import structure
from lana.quantization.onnx_quantizer import quantize_onnx
from lana.quantization.regions import int8_nodes, marked
from lana.quantization.scheme import Scheme
from profilers.computation import Computation

Inputs = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedPrecision:
    """How a network with some int8 layers is written.

    Attributes:
        layers: the path of every layer → its precision.
        inputs: on which ranges are taken; without them the ranges are placeholders.
    """

    scheme: Scheme
    layers: Mapping[str, str]
    inputs: Inputs | None = None


def operation_computation(
    module: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    name: str,
    scheme: Scheme,
    known: tuple[str, dict[str, float]] | None = None,
    inputs: Inputs | None = None,
) -> Computation:
    """An operation that is int8 as a whole, conversions at its ends included.

    Without `inputs` its ranges are placeholders.

    Raises:
        ExportFailed, QuantizationFailed: it cannot be written so.
    """
    key, columns = known or structure(module, (example,), precision_text(scheme))
    path = folder / f"{key}.onnx"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as place:
            quantize_onnx(export_onnx(module, example, Path(place) / "fp32.onnx"), path, inputs, scheme)
    return Computation(key=key, name=name, format="onnx", file=path, inputs=(input_spec(example),), columns=columns)


def network_computation(
    network: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    name: str,
    mixed: MixedPrecision,
    stem: str | None = None,
) -> Computation:
    """A network with some int8 layers; a file with a `stem` is written anew.

    Raises:
        ExportFailed, QuantizationFailed: it cannot be written so.
    """
    where = ",".join(sorted(layer for layer, precision in mixed.layers.items() if precision == "int8"))
    key, columns = structure(network, (example,), f"{precision_text(mixed.scheme)} at {where}")
    path = folder / f"{stem or key}.onnx"
    if stem or not path.is_file():
        with tempfile.TemporaryDirectory() as place:
            with marked(network, mixed.layers) as regions:
                plain = export_onnx(regions, example, Path(place) / "fp32.onnx")
            quantize_onnx(plain, path, mixed.inputs, mixed.scheme, nodes=int8_nodes)
    return Computation(key=key, name=name, format="onnx", file=path, inputs=(input_spec(example),), columns=columns)


def conversion_computation(example: Tensor, folder: Path, *, name: str, scheme: Scheme) -> Computation:
    """A tensor of this shape, quantized and dequantized: what does not happen between two int8 neighbours."""
    text = f"conversion {precision_text(scheme)} {tuple(example.shape)}"
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    path, spec = folder / f"{key}.onnx", input_spec(example)
    bytes_type = TensorProto.UINT8 if scheme.activation == "uint8" else TensorProto.INT8
    zero = 64 if scheme.activation == "uint8" else 0
    shape = list(example.shape)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["output"]),
        ],
        "conversion",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.02]),
            helper.make_tensor("zero", bytes_type, [], [zero]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    model.producer_name = "pytorch"  # one exporter a table
    model.producer_version = torch.__version__.partition("+")[0] + FOLDED
    write_atomically(path, lambda temporary: onnx.save(model, str(temporary)))
    columns = {"parameters": 0.0, "weight_bytes": 0.0, "macs": 0.0, "operators": 0.0, "activations": 0.0}
    return Computation(key=key, name=name, format="onnx", file=path, inputs=(spec,), columns=columns)


def precision_text(scheme: Scheme) -> str:
    """The precision as a part of the text that a structure key hashes."""
    return f"int8 {dataclasses.astuple(scheme)}"


class FileNetwork(nn.Module):
    """An ONNX file as a module: its outputs are those that are promised.

    They have the form of `like`, an output of the network; by default the first is given as it is.
    """

    def __init__(self, path: Path, like: Any = None) -> None:
        super().__init__()
        self.session, self.form = onnx_session(path), None if like is None else tree_flatten(like)[1]
        self.batch = int(self.session.get_inputs()[0].shape[0])

    def forward(self, inputs: Tensor) -> Any:
        """The outputs of any number of examples; the last batch is filled up with its last example."""
        count, device = len(inputs), inputs.device
        inputs = inputs.detach().to("cpu", torch.float32)
        if missing := math.ceil(count / self.batch) * self.batch - count:
            inputs = torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])])
        runs = [run_onnx(self.session, part) for part in inputs.split(self.batch)]
        outputs = [
            torch.cat([torch.from_numpy(part) for part in parts])[:count].to(device)
            for parts in zip(*runs, strict=True)
        ]
        return outputs[0] if self.form is None else tree_unflatten(outputs, self.form)


def run_as(network: nn.Module, example: Tensor, path: Path) -> FileNetwork:
    """The file of a network as a module; its outputs have the form of the network's own."""
    with torch.no_grad():
        return FileNetwork(path, network.eval()(example))
