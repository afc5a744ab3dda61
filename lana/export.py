"""A module as a file that runtimes run: one way for the operations of a table and for whole students."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lana.errors import LanaError
from lana.run import write
from lana.structure import flat_tensors, structure
from profilers.computation import Computation, TensorSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 18  # understood by ONNX Runtime since 1.15, by TensorRT since 8.6 and by OpenVINO since 2023.1


class ExportFailed(LanaError):
    """A module could not be written in the form that a runtime takes."""


def export_onnx(
    module: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool = False, opset: int = OPSET
) -> Path:
    """Write a module as ONNX: input `input`, output `output` (then `output_1` … where there are several).

    The TorchScript exporter is used, since it takes a hundredth of the time of the newer one and a table is hundreds
    of exports; what it cannot do, or writes with branches and loops (where it lost sight of shapes, and which runtimes
    refuse then), goes through the newer one.

    Raises:
        ExportFailed: neither exporter can write this module.
    """
    module.eval()
    with _quiet(), torch.no_grad():
        try:
            module = _in_a_tuple(module, found := module(example))
            outputs = ["output", *(f"output_{i}" for i, _ in enumerate(flat_tensors(found)) if i)]
        except Exception as error:
            raise ExportFailed(f"{type(module).__name__} fails on an example: {_short(error)}") from error
        how = {"opset_version": opset, "input_names": ["input"], "output_names": outputs}
        content = b""
        try:
            content = _traced(module, example, how, dynamic_batch=dynamic_batch)
            amiss = ", ".join(_branches(content))
        except Exception as error:
            amiss = _short(error)
        if amiss:
            try:
                content = _captured(module, example, how, dynamic_batch=dynamic_batch)
            except Exception as error:
                if not content:
                    raise ExportFailed(
                        f"{type(module).__name__} cannot be exported to ONNX: {amiss}; "
                        f"and by the newer exporter: {_short(error)}"
                    ) from error
    return write(path, lambda beside: beside.write_bytes(content))


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


def _branches(content: bytes) -> list[str]:
    import onnx

    nodes = onnx.load_model_from_string(content).graph.node
    return sorted({node.op_type for node in nodes} & {"If", "Loop", "Scan"})


class _InATuple(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat_tensors(self.module(x)))


def _in_a_tuple(module: nn.Module, output: Any) -> nn.Module:
    """The module, its outputs in a tuple where they come in a record of the network's own, which no exporter knows."""
    return module if isinstance(output, (Tensor, tuple, list, dict)) else _InATuple(module).eval()


def export_program(module: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool = False) -> Path:
    """Write a module as a `torch.export` program (.pt2).

    Raises:
        ExportFailed: the module cannot be traced.
    """
    module.eval()
    with _quiet(), torch.no_grad():
        try:
            shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic_batch else None
            module = _in_a_tuple(module, module(example))
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
            return write(path, lambda beside: torch.export.save(program, beside))
        except Exception as error:
            raise ExportFailed(
                f"{type(module).__name__} cannot be exported by torch.export: {_short(error)}"
            ) from error


_FORMS = {"onnx": export_onnx, "exported": export_program}
_SUFFIX = {"onnx": ".onnx", "exported": ".pt2"}


def to_computation(
    module: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    name: str,
    form: str = "onnx",
    labels: dict[str, str] | None = None,
    key: str | None = None,
    columns: dict[str, float] | None = None,
    stem: str | None = None,
) -> Computation:
    """A module as a `Computation` in `folder`; the file is named by its structural key, and then written only once.

    `key` and `columns` are its structure's, where the caller knows them. With a `stem` the file is named so and written
    anew.

    Raises:
        ExportFailed: the module cannot be written in this form.
    """
    if key is None or columns is None:
        key, columns = structure(module, (example,))
    path = folder / f"{stem or key}{_SUFFIX[form]}"
    if stem or not path.is_file():
        _FORMS[form](module, example, path)
    return Computation(
        key=key,
        name=name,
        form=form,
        file=path,
        inputs=(TensorSpec(name="input", shape=tuple(example.shape), dtype=str(example.dtype).removeprefix("torch.")),),
        labels=labels or {},
        columns=columns,
    )


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
    """ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_onnx(session: InferenceSession, inputs: Tensor) -> list[np.ndarray]:
    """The outputs of an ONNX file with one input."""
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})


def relative_error(module: nn.Module, inputs: Tensor, found: Sequence[np.ndarray]) -> float:
    """The largest difference of `found` from what a module gives, relative to the largest of its outputs; NaN where
    one gives a number and the other does not.

    Raises:
        ExportFailed: there are more or fewer outputs.
    """
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in flat_tensors(module.eval()(inputs))]
    if len(found) != len(expected):
        raise ExportFailed(f"The file has {len(found)} outputs, the network has {len(expected)}.")
    return float(np.max([0.0, *(_apart(ours, theirs) for ours, theirs in zip(found, expected, strict=True))]))


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))  # infinities too, of masks
    largest = np.abs(theirs[np.isfinite(theirs)]).max(initial=1e-12)
    return float(np.abs(ours[~same] - theirs[~same]).max(initial=0.0) / largest)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn at length about what does not matter to the user; attention is kept in plain operators."""
    logger = logging.getLogger("torch.onnx")
    level, fast, log = logger.level, torch.backends.mha.get_fastpath_enabled(), torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None  # torch 2.9 switches it on at every export: the whole graph at a failure
    logger.setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that no exporter knows
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._jit_onnx_log = log
