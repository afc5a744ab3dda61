"""Small computations with known answers, as ONNX written by hand and as exported programs."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from profilers import Computation, TensorSpec, tiny_onnx

SPEC = TensorSpec(name="x", shape=(1, 4, 8, 8), dtype="float32")


def convolution_weight(channels: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, channels, 3, 3)).astype(np.float32) * 0.1


def onnx_convolution(folder: Path, *, key: str = "conv", layers: int = 1, labels: dict | None = None) -> Computation:
    """A chain of 3×3 convolutions of four channels, each followed by ReLU."""
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    weight = convolution_weight(4)
    nodes, weights = [], {}
    for index, (before, after) in enumerate(pairwise(names)):
        weights[f"w{index}"] = weight
        nodes.append(("Conv", [before, f"w{index}"], f"c{index}", {"pads": [1, 1, 1, 1]}))
        nodes.append(("Relu", [f"c{index}"], after, {}))
    path = folder / f"{key}.onnx"
    shape = SPEC.shape
    path.write_bytes(tiny_onnx.model(nodes, inputs={"x": shape}, outputs={"y": shape}, weights=weights))
    return Computation(
        key=key, name=f"{key} of {layers}", format="onnx", file=path, inputs=(SPEC,), labels=labels or {}, columns={}
    )


def unknown_operator(folder: Path, *, key: str = "unknown") -> Computation:
    path = folder / f"{key}.onnx"
    shape = {"x": (1, 4)}
    path.write_bytes(tiny_onnx.model([("Frobnicate", ["x"], "y", {})], inputs=shape, outputs={"y": (1, 4)}, weights={}))
    spec = TensorSpec(name="x", shape=(1, 4), dtype="float32")
    return Computation(key=key, name="an operator that nobody knows", format="onnx", file=path, inputs=(spec,))


def exported_convolution(folder: Path, *, key: str = "conv") -> Computation:
    """The one-layer chain as a program of `torch.export`."""
    import torch
    from torch import nn

    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU())
    module[0].weight.data = torch.from_numpy(convolution_weight(4))
    path = folder / f"{key}.pt2"
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(SPEC.shape),)), path)
    return Computation(key=key, name=key, format="torch_export", file=path, inputs=(SPEC,))


def expected_convolution(x: np.ndarray) -> np.ndarray:
    """What the one-layer chain gives, by the definition of a convolution."""
    weight = convolution_weight(4)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros_like(x)
    for i in range(3):
        for j in range(3):
            out += np.einsum("oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + 8, j : j + 8])
    return np.maximum(out, 0.0)
