"""How far the outputs of an exported file are from those of its PyTorch module."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lana.exporters.tracing import ExportFailed, short_error
from lana.networks.structure import flat_tensors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def onnx_parity(module: nn.Module, path: Path, examples: Iterable[Tensor], *, limit_s: float = math.inf) -> float:
    """The largest difference between a module's outputs and its ONNX file's, relative to the largest output.

    After `limit_s` no further example is taken.
    """
    session, until_s, errors = onnx_session(path), time.monotonic() + limit_s, [0.0]
    for inputs in examples:
        errors.append(relative_error(module, inputs, run_onnx(session, inputs)))
        if time.monotonic() > until_s:
            break
    return float(np.max(errors))  # of which one that is no number is the largest


def onnx_session(path: Path) -> InferenceSession:
    """ONNX Runtime on one thread.

    Raises:
        ExportFailed: it does not load the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own have no common type
        raise ExportFailed(f"ONNX Runtime does not load {path} ({short_error(error)}).") from error


def run_onnx(session: InferenceSession, inputs: Tensor) -> list[np.ndarray]:
    """The outputs of an ONNX file with one input.

    Raises:
        ExportFailed: the file does not run on it.
    """
    try:
        return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    except Exception as error:  # as above
        raise ExportFailed(f"ONNX Runtime does not run the file ({short_error(error)}).") from error


def relative_error(module: nn.Module, inputs: Tensor, outputs: Sequence[np.ndarray]) -> float:
    """The largest difference of `outputs` from those of a module, relative to the largest of these.

    It is NaN where one is a number and the other is not.

    Raises:
        ExportFailed: there are more or fewer outputs.
    """
    with torch.no_grad():
        expected = [_as_array(tensor) for tensor in flat_tensors(module.eval()(inputs))]
    if len(outputs) != len(expected):
        raise ExportFailed(f"The file has {len(outputs)} outputs, the network has {len(expected)}.")
    return float(np.max([0.0, *(apart(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))]))


def _as_array(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest of `theirs`; NaN where only one of two is a number."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))  # infinities too, of masks
    largest = np.abs(theirs[np.isfinite(theirs)]).max(initial=1e-12)
    return float(np.abs(ours[~same] - theirs[~same]).max(initial=0.0) / largest)


TOLERANCE = 1e-2  # of the largest output, at 32 bits: a file that is further off does not compute the network


def check_parity(path: Path, error: float, remedy: str) -> None:
    """Refuse a file that computes something else.

    Raises:
        ExportFailed: `error`, relative to the largest output, is above `TOLERANCE`.
    """
    if not error <= TOLERANCE:
        raise ExportFailed(
            f"{path} was written, but its outputs differ from PyTorch's by {error:.1e} of the largest: do not use it. "
            f"{remedy}"
        )
