"""A network as a file to ship: ONNX, a `torch.export` program, OpenVINO IR, a TensorRT engine.

Every file is run again after it was written, and compared with PyTorch. This module loads no torch when imported, so
that a wrong option is reported at once. TensorRT engines have not been written anywhere yet: their tests need a GPU
with TensorRT.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lana.common.suggestions import near
from lana.errors import UserError
from profilers.formats import SUFFIXES

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


LEAST_OPSET, MOST_OPSET = 13, 23  # below 13 too many operators are missing; 23 is what torch can write


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to write a file.

    Attributes:
        opset: of ONNX; None is the one that lana measures with, which all its runtimes understand.
        dynamic_batch: leave the number of examples open; else it is fixed at `batch`.
        runtime_precision: fp32, or fp16 where the format lets one choose.
    """

    opset: int | None = None
    dynamic_batch: bool = False
    batch: int = 1
    runtime_precision: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file: how to write it, how to run it, what can be chosen.

    `write(module, example, path, options)` writes the file, `run(path, inputs)` gives its outputs.
    """

    write: Callable[[nn.Module, Tensor, Path, Options], Path]
    run: Callable[[Path, Tensor], list[np.ndarray]]
    runtime: str = ""  # which has to be installed
    opsets: bool = False
    dynamic: bool = True
    runtime_precisions: tuple[str, ...] = ("fp32",)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, run and compared.

    Attributes:
        batch: examples in one run; None where it is open.
        max_relative_error: the largest difference from PyTorch's outputs, relative to the largest of them.
    """

    file: str
    format: str
    bytes: int
    opset: int | None
    batch: int | None
    runtime_precision: str
    max_relative_error: float
    precisions: str = "fp32"

    def show(self) -> None:
        """Print it in two lines."""
        opset = f", opset {self.opset}" if self.opset else ""
        batch = "any batch" if self.batch is None else f"batch {self.batch}"
        precision = self.runtime_precision if self.precisions == "fp32" else self.precisions
        print(f"Wrote {self.file} ({self.bytes / 1e6:.2f} MB; {self.format}{opset}, {batch}, {precision}).")
        print(f"Run again, it differs from PyTorch by at most {self.max_relative_error:.1e} of the largest output.")


def format_of(path: Path | str, format: str | None, options: Options) -> str:
    """The name of the format, by default by the file's suffix.

    Raises:
        UserError: an unknown format or suffix; an option that the format does not have.
        RuntimeUnavailable: the format's runtime is not installed.

    >>> format_of("net.pt2", None, Options())
    'torch_export'
    """
    by_suffix = {SUFFIXES[name]: name for name in FORMATS}
    if format is None and Path(path).suffix not in by_suffix:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in by_suffix.items())
        raise UserError(f"The suffix of {path} names no format. Give --format, or end it in one of: {known}.")
    name = by_suffix[Path(path).suffix] if format is None else format
    if name not in FORMATS:
        raise UserError(f"--format {name!r}: expected one of {', '.join(FORMATS)}.{near(name, list(FORMATS))}")
    _check_options(name, options)
    return name


def _check_options(name: str, options: Options) -> None:
    """Refuse what this format does not have."""
    from profilers.registry import create_runtime
    from profilers.runtime import RuntimeSettings

    kind = FORMATS[name]
    if options.opset is not None and not kind.opsets:
        raise UserError(f"--opset {options.opset}: a file of format {name} has no opset. Leave it out.")
    if options.opset is not None and not LEAST_OPSET <= options.opset <= MOST_OPSET:
        raise UserError(f"--opset {options.opset}: expected a number from {LEAST_OPSET} to {MOST_OPSET}.")
    if options.dynamic_batch and not kind.dynamic:
        raise UserError(f"--dynamic-batch: a file of format {name} has a fixed batch. Give it with --batch.")
    if options.runtime_precision not in kind.runtime_precisions:
        offering = [other for other, one in FORMATS.items() if options.runtime_precision in one.runtime_precisions]
        others = f"; formats that offer it: {', '.join(offering)}" if offering else ""
        raise UserError(
            f"--runtime-precision {options.runtime_precision}: format {name} offers "
            f"{', '.join(kind.runtime_precisions)}{others}."
        )
    if kind.runtime:
        create_runtime(kind.runtime, RuntimeSettings())


def export_as(
    module: nn.Module,
    example: Callable[[int], Tensor],
    path: Path,
    *,
    format: str | None = None,
    options: Options | None = None,
) -> Exported:
    """Write a network to a file, run the file, compare. `example(n)` gives n examples.

    Raises:
        UserError, RuntimeUnavailable: see `format_of`.
        ExportFailed: it cannot be written so, or the file computes something else.
    """
    from lana.exporters.parity import check_parity, relative_error

    options = options or Options()
    name = format_of(path, format, options)
    kind, seen, open_batch = FORMATS[name], options.batch, options.dynamic_batch
    # A batch of one is taken for a constant by exporters; what is open is tried at another size than was seen.
    path.parent.mkdir(parents=True, exist_ok=True)
    path = kind.write(module, example(max(2, seen) if open_batch else seen), path, options)
    inputs = example(max(2, seen) + 1 if open_batch else seen)
    error = relative_error(module, inputs, kind.run(path, inputs))
    if options.runtime_precision == "fp32":
        check_parity(path, error, "Try another --opset or --format.")
    return Exported(
        file=str(path),
        format=name,
        bytes=sum(part.stat().st_size for part in _parts(path)),
        opset=_opset_of(path) if kind.opsets else None,
        batch=None if open_batch else seen,
        runtime_precision=options.runtime_precision,
        max_relative_error=error,
    )


def _parts(path: Path) -> list[Path]:
    """OpenVINO's weights lie next to its file."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def _write_onnx(module: nn.Module, example: Tensor, path: Path, options: Options) -> Path:
    from lana.exporters.onnx_export import export_onnx

    return export_onnx(module, example, path, dynamic_batch=options.dynamic_batch, opset=options.opset)


def _run_onnx(path: Path, inputs: Tensor) -> list[np.ndarray]:
    from lana.exporters.parity import onnx_session, run_onnx

    return run_onnx(onnx_session(path), inputs)


def _opset_of(path: Path) -> int:
    import onnx

    imported = onnx.load(str(path), load_external_data=False).opset_import
    return next(int(entry.version) for entry in imported if entry.domain in ("", "ai.onnx"))


def _write_torch_export(module: nn.Module, example: Tensor, path: Path, options: Options) -> Path:
    from lana.exporters.torch_export import export_program

    return export_program(module, example, path, dynamic_batch=options.dynamic_batch)


def _run_torch_export(path: Path, inputs: Tensor) -> list[np.ndarray]:
    import torch

    from lana.networks.structure import flat_tensors

    with torch.no_grad():
        return [tensor.numpy() for tensor in flat_tensors(torch.export.load(path).module()(inputs))]


def _write_openvino(module: nn.Module, example: Tensor, path: Path, options: Options) -> Path:
    """IR: `path` (.xml) with its weights next to it (.bin), by way of ONNX."""
    import openvino

    path = path.with_suffix(".xml")
    with tempfile.TemporaryDirectory() as folder:
        # Not `convert_model`: it reports each call to a statistics service.
        read = openvino.Core().read_model(_write_onnx(module, example, Path(folder) / "model.onnx", options))
        openvino.save_model(read, path, compress_to_fp16=options.runtime_precision == "fp16")
    return path


def _run_openvino(path: Path, inputs: Tensor) -> list[np.ndarray]:
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return list(openvino.Core().compile_model(path, "CPU", exact)([inputs.numpy()]).to_tuple())


def _write_tensorrt(module: nn.Module, example: Tensor, path: Path, options: Options) -> Path:
    """An engine for the device that is here, built as for measuring: it runs on no other kind of device."""
    from lana.common.files import write_atomically
    from lana.exporters.computation import to_computation
    from profilers import RuntimeSettings, create_runtime

    settings = RuntimeSettings(batch=len(example), precision=options.runtime_precision)
    with tempfile.TemporaryDirectory() as folder:
        onnx = to_computation(module, example, Path(folder), name=path.stem, stem="model")
        create_runtime("tensorrt", settings).prepare(onnx).close()
        engine = onnx.file.with_suffix(SUFFIXES["tensorrt"]).read_bytes()
    return write_atomically(path, lambda temporary: temporary.write_bytes(engine))


def _run_tensorrt(path: Path, inputs: Tensor) -> list[np.ndarray]:
    import tensorrt

    from lana.exporters.computation import input_spec
    from profilers.tensorrt_runtime import TensorRTSession

    engine: Any = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
    array, spec = inputs.numpy(), input_spec(inputs)
    with TensorRTSession(engine, [spec.name], [array]) as session:
        return session.outputs([array])


FORMATS = {
    "onnx": Format(write=_write_onnx, run=_run_onnx, opsets=True),
    "torch_export": Format(write=_write_torch_export, run=_run_torch_export),
    "openvino": Format(
        write=_write_openvino, run=_run_openvino, runtime="openvino", runtime_precisions=("fp32", "fp16")
    ),
    "tensorrt": Format(
        write=_write_tensorrt,
        run=_run_tensorrt,
        runtime="tensorrt",
        dynamic=False,
        runtime_precisions=("fp32", "fp16"),
    ),
}
