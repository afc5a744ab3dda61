"""A module as an ONNX file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.common.files import write_atomically
from lana.errors import LanaError
from lana.exporters.folding import readable
from lana.exporters.tracing import INNER, ExportFailed, in_a_tuple, named_outputs, quiet_export, short_error

OPSET = 18  # understood by ONNX Runtime since 1.15, by TensorRT since 8.6 and by OpenVINO since 2023.1

# The shape inference of ONNX Runtime's quantizer reads the axes of these where they are attributes, as before 18.
_REDUCTIONS = {f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Min", "SumSquare")}
REDUCTIONS_OPSET = 17
_BRANCHES = {"If", "Loop", "Scan"}


def export_onnx(
    module: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool = False, opset: int | None = None
) -> Path:
    """Write a module as ONNX: input `input`, output `output` (then `output_1` …, or a mapping's own keys).

    The TorchScript exporter is used: it takes a hundredth of the newer one's time, and a table needs hundreds of
    exports. The newer one exports modules that it fails on. It also exports those that TorchScript writes with branches
    and loops, which it does where shapes are unknown; runtimes refuse such files. Constant nodes are folded.
    The opset is `OPSET` by default, and an older one where ONNX Runtime's quantizer needs it.

    Raises:
        ExportFailed: neither exporter can write this module.
    """
    module.eval()
    with quiet_export(), torch.no_grad():
        try:
            found = module(example)
            network, module = module, in_a_tuple(module, found)
            outputs = list(named_outputs(found))
        except Exception as error:  # the network's own code
            raise ExportFailed(f"{type(module).__name__} fails on an example: {short_error(error)}") from error
        how = {"opset_version": opset or OPSET, "input_names": ["input"], "output_names": outputs}
        content = b""
        try:
            content = _traced(module, example, how, dynamic_batch=dynamic_batch)
            if opset is None and _operators(content) & _REDUCTIONS:
                content = _traced(
                    module, example, {**how, "opset_version": REDUCTIONS_OPSET}, dynamic_batch=dynamic_batch
                )
            amiss = ", ".join(sorted(_operators(content) & _BRANCHES))
        except Exception as error:  # exporters raise errors of many kinds
            amiss = short_error(error)
        if amiss:
            try:
                content = _captured(module, example, how, dynamic_batch=dynamic_batch)
            except Exception as error:  # as above
                if not content:
                    raise ExportFailed(
                        f"{type(module).__name__} cannot be exported to ONNX: {amiss}; "
                        f"and by the newer exporter: {short_error(error)}"
                    ) from error
    names = {name for name, _ in network.named_modules(remove_duplicate=False)}
    content = readable(content, names, inner=INNER if module is not network else "")
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _traced(module: nn.Module, example: Tensor, how: dict[str, Any], *, dynamic_batch: bool) -> bytes:
    axes = {name: {0: "batch"} for name in ("input", *how["output_names"])} if dynamic_batch else None
    memory = io.BytesIO()  # the exporter takes a buffer too
    torch.onnx.export(module, (example,), memory, dynamo=False, dynamic_axes=axes, **how)  # type: ignore[arg-type]
    return memory.getvalue()


def _captured(module: nn.Module, example: Tensor, how: dict[str, Any], *, dynamic_batch: bool) -> bytes:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic_batch else None
    program = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=shapes, **how)
    if program is None:
        raise LanaError("the exporter returned nothing")
    return program.model_proto.SerializeToString()


def _operators(content: bytes) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load_model_from_string(content).graph.node}
