"""ONNX files in half precision, for runtimes that compute in the types that a file names."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from profilers.computation import Computation
from profilers.errors import BuildFailed


def in_precision(computation: Computation, precision: str, folder: Path) -> Computation:
    """The computation with a file of this precision, which is written into `folder` where its own is another.

    Inputs and outputs stay float32.

    Raises:
        BuildFailed: the file has another precision than float32, or cannot be converted.
    """
    if computation.precision == precision:
        return computation
    if (computation.precision, precision) != ("fp32", "fp16"):
        raise BuildFailed(
            f"{computation.file} computes in {computation.precision}, the settings have {precision}. "
            f"Set the precision to {computation.precision}, or give a file in fp32."
        )
    path = folder / f"{computation.key}.fp16.onnx"
    write_half(computation.file, path)
    return replace(computation, file=path, precision=precision, beside=())


def write_half(source: Path, target: Path) -> None:
    """Convert an fp32 ONNX file; operators without a half-precision kernel keep float32 between casts.

    Raises:
        BuildFailed: the file cannot be converted, or `onnx` or `onnxruntime` is not installed.
    """
    try:
        import onnx
        from onnxruntime.transformers import float16

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for each number that is rounded to the least or largest of fp16
            model = float16.convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
        onnx.save(model, str(target))
    except Exception as error:  # of the converter, which checks nothing, and of packages
        raise BuildFailed(f"{source} cannot be converted to fp16: {type(error).__name__}: {error}") from error
