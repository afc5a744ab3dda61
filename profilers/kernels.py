"""The three calibration kernels: compute-bound, memory-bound, dispatch-bound."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from profilers import tiny_onnx
from profilers.computation import Computation, TensorSpec

CONV_CHANNELS, CONV_SIZE = 64, 28  # 64·64·9·28² = 28.9 million multiply-adds, weights and data within a 512 KB cache

MEMORY_SHAPE = (1, 64, 128, 128)  # 4 MB in, 4 MB out: beyond any second-level cache

CHAIN = 32  # operators of 16 numbers: nothing but the cost of starting an operator

KERNELS = ("compute", "memory", "dispatch")


def kernel_shape(name: str) -> tuple[int, ...]:
    """The shape of the one input and the one output."""
    return {
        "compute": (1, CONV_CHANNELS, CONV_SIZE, CONV_SIZE),
        "memory": MEMORY_SHAPE,
        "dispatch": (1, 16),
    }[name]


def conv_weight() -> np.ndarray:
    """Scaled as trained weights are, so that nothing grows or becomes denormal."""
    scale = math.sqrt(1 / (9 * CONV_CHANNELS))
    shape = (CONV_CHANNELS, CONV_CHANNELS, 3, 3)
    return (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)


def onnx_kernel(name: str, folder: Path, precision: str = "fp32") -> Computation:
    """Write a kernel as ONNX: a 3×3 convolution, an elementwise pass, a chain that no optimizer can shorten.

    In fp16 it lies between two casts, as in the converted files of networks.
    """
    shape, half = kernel_shape(name), precision == "fp16"
    first, last = ("x16", "y16") if half else ("x", "y")
    weights: dict[str, np.ndarray] = {}
    nodes: list[tiny_onnx.Node]
    if name == "compute":
        weights["w"] = conv_weight().astype(np.float16 if half else np.float32)
        nodes = [("Conv", [first, "w"], last, {"pads": [1, 1, 1, 1]})]
    elif name == "memory":
        nodes = [("Relu", [first], last, {})]
    else:
        chain = [first, *(f"c{i}" for i in range(CHAIN - 1)), last]
        nodes = [
            (("Tanh", "Sigmoid")[i % 2], [before], after, {})
            for i, (before, after) in enumerate(itertools.pairwise(chain))
        ]
    if half:
        casts: list[tiny_onnx.Node] = [
            ("Cast", ["x"], first, {"to": tiny_onnx.FLOAT16}),
            ("Cast", [last], "y", {"to": tiny_onnx.FLOAT}),
        ]
        nodes = [casts[0], *nodes, casts[1]]
    path = folder / f"calibration_{name}.onnx"
    path.write_bytes(tiny_onnx.model(nodes, inputs={"x": shape}, outputs={"y": shape}, weights=weights))
    spec = TensorSpec(name="x", shape=shape, dtype="float32")
    title = f"calibration {name}"
    return Computation(
        key=f"calibration{name}", name=title, format="onnx", file=path, inputs=(spec,), precision=precision
    )
