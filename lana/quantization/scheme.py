"""The int8 scheme of a runtime on a processor: which types are fast there, and which ranges stay exact."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass

from lana.common.suggestions import near
from lana.errors import UserError
from profilers.environment import processor_flags

PRECISIONS = ("fp32", "int8")
CALIBRATION_IMAGES = 512  # on which the ranges of activations are taken
INT8_RUNTIMES = ("onnxruntime-cpu", "openvino", "tensorrt")
# Processors with these multiply bytes into 32 bits in one instruction. Others go by 16 bits, which saturate.
DOT_PRODUCT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
ARM = ("aarch64", "arm64", "armv7l", "armv8l")


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How numbers become bytes.

    Attributes:
        activation: uint8 on x86, where int8 is the slow path (onnxruntime issue 21984); int8 on ARM and GPUs.
        symmetric: zero is the middle of the range of an activation, as TensorRT expects.
        reduced_range: weights use 7 bits, so that sums of two products do not saturate 16 bits.
    """

    activation: str = "uint8"
    symmetric: bool = False
    reduced_range: bool = False

    def __str__(self) -> str:
        reduced = ", reduced range" if self.reduced_range else ""
        return f"{self.activation} activations, int8 weights per channel{reduced}"


def scheme_of(runtime: str, machine: str, flags: Collection[str]) -> Scheme:
    """The scheme for a runtime on a processor of this machine type and these flags.

    Raises:
        UserError: lana writes no int8 files for this runtime.

    >>> str(scheme_of("onnxruntime-cpu", "x86_64", {"avx2"}))
    'uint8 activations, int8 weights per channel, reduced range'
    >>> scheme_of("onnxruntime-cpu", "aarch64", {"asimd"}).activation
    'int8'
    """
    if runtime not in INT8_RUNTIMES:
        raise UserError(f"Runtime {runtime} runs no int8 files of lana. Those that do: {', '.join(INT8_RUNTIMES)}.")
    if runtime == "tensorrt":
        return Scheme(activation="int8", symmetric=True)
    if machine in ARM:
        return Scheme(activation="int8")
    return Scheme(reduced_range=not DOT_PRODUCT_FLAGS & set(flags))


def scheme_for(runtime: str, precisions: str) -> Scheme | None:
    """The int8 scheme of a runtime on this processor; None where `precisions` do not hold int8.

    Raises:
        UserError: unknown precisions; int8 for a runtime that runs no such files.
    """
    names = check_precisions(precisions)
    if "fp32" not in names:
        raise UserError(f"--precisions {precisions!r}: expected fp32, or fp32,int8. int8 is chosen where it is faster.")
    if "int8" not in names:
        return None
    return scheme_here(runtime)


def scheme_here(runtime: str = "onnxruntime-cpu") -> Scheme:
    """The int8 scheme of a runtime on this processor.

    Raises:
        UserError: lana writes no int8 files for this runtime.
    """
    return scheme_of(runtime, platform.machine(), processor_flags())


def check_precisions(text: str) -> tuple[str, ...]:
    """The precisions of a text such as "fp32,int8".

    Raises:
        UserError: one that there is not.

    >>> check_precisions("fp32, int8")
    ('fp32', 'int8')
    """
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UserError(f"--precisions {text!r}: expected {known} or both.{near(name, list(PRECISIONS))}")
    return names
