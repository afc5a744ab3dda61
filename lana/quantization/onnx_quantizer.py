"""Post-training quantization of an ONNX file by ONNX Runtime's own quantizer, whose files its kernels fuse."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from lana.common.files import write_atomically
from lana.errors import LanaError, UserError
from lana.quantization.ranges import observed_ranges, placeholders
from lana.quantization.scheme import Scheme

LEAST_INPUTS = 16  # to take ranges from


class QuantizationFailed(LanaError):
    """A file could not be quantized."""


def quantize_onnx(
    source: Path,
    destination: Path,
    inputs: Sequence[np.ndarray] | None,
    scheme: Scheme,
    *,
    nodes: Callable[[onnx.GraphProto], list[str]] | None = None,
) -> Path:
    """Write the ONNX file `source` with int8 weights and activations (Q/DQ), its ranges from `inputs`.

    Each of the `inputs` has the shape of the file's input. Without inputs every range is a placeholder: the file runs
    as fast, and computes nothing of use. `nodes` gives the names of those to quantize; by default all are.

    Normalisation is folded into convolutions first, as `quantize_static` asks for. Weights are quantized per channel,
    symmetrically; activations per tensor.

    Raises:
        UserError: fewer than 16 inputs.
        QuantizationFailed: a range is not finite, ONNX Runtime cannot quantize the file, or `nodes` gives none.
    """
    if inputs is not None and len(inputs) < LEAST_INPUTS:
        raise UserError(
            f"{len(inputs)} images are too few to calibrate int8 on. Give data with at least {LEAST_INPUTS}."
        )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, written, ranges = (Path(folder) / name for name in ("prepared.onnx", "quantized.onnx", "ranges.json"))
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            graph = onnx.load(str(prepared), load_external_data=False).graph
            chosen = nodes(graph) if nodes is not None else [node.name for node in graph.node]
            if not chosen:
                raise QuantizationFailed(f"{source.name} has no node to quantize: its exporter names no layers.")
            found = placeholders(graph) if inputs is None else observed_ranges(prepared, inputs)
            save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), ranges)
            quantize_static(str(prepared), str(written), calibration_cache_path=ranges, **_options(scheme, chosen))
        except LanaError:
            raise
        except Exception as error:  # ONNX Runtime raises errors of many kinds
            raise QuantizationFailed(f"{source} cannot be quantized: {type(error).__name__}: {error}") from error
        _check_ranges(written)
        _keep_producer(source, written)
        return write_atomically(destination, lambda temporary: temporary.write_bytes(written.read_bytes()))


def _options(scheme: Scheme, nodes: list[str]) -> dict[str, Any]:
    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    return {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "reduce_range": scheme.reduced_range,
        "activation_type": types[scheme.activation],
        "weight_type": QuantType.QInt8,
        "nodes_to_quantize": nodes,
        "extra_options": {"ActivationSymmetric": scheme.symmetric},
    }


def _keep_producer(source: Path, written: Path) -> None:
    """Name the exporter of the source: the quantizer is a part of the runtime, whose version tables hold already."""
    before, model = onnx.load(str(source), load_external_data=False), onnx.load(str(written))
    model.producer_name, model.producer_version = before.producer_name, before.producer_version
    onnx.save(model, str(written))


def _check_ranges(path: Path) -> None:
    """Refuse scales that are not finite: they come from activations that are not."""
    for tensor in onnx.load(str(path)).graph.initializer:
        if tensor.name.endswith("_scale") and not np.isfinite(onnx.numpy_helper.to_array(tensor)).all():
            name = tensor.name.removesuffix("_scale")
            raise QuantizationFailed(f"The range of {name} is not finite on the calibration images.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's own advice, which is followed here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
