"""Fixed sentinel kernels, and a device's reference times for them.

A shared machine drifts by 15% over minutes, yet ratios to something measured next to it stay within 3%. Three kernels
stand for what slows down differently: arithmetic, memory traffic, and the dispatch of many small operators.
"""

import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from math import exp, log
from pathlib import Path
from statistics import median

import numpy as np

from .computation import Computation, TensorSpec
from .errors import ProfilerError
from .runtime import RuntimeSettings

KERNELS = ("compute", "memory", "dispatch")


def kernels(folder: Path) -> list[Computation]:
    """The kernels as ONNX files in `folder`, in the order of `KERNELS`."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((32, 32, 3, 3)).astype(np.float32) / 17, "w")
    graphs = {
        "compute": ((1, 32, 32, 32), [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], [weight]),
        "memory": ((1, 512, 1024), [helper.make_node("Neg", ["x"], ["y"])], []),
        "dispatch": (
            (1, 16),
            [helper.make_node(("Sin", "Cos")[i % 2], [f"h{i}" if i else "x"], [f"h{i + 1}"]) for i in range(30)]
            + [helper.make_node("Neg", ["h30"], ["y"])],
            [],
        ),
    }
    computations = []
    for name, (shape, nodes, weights) in graphs.items():
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("x", "y")]
        graph = helper.make_graph(nodes, name, ends[:1], ends[1:], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(model, folder / f"{name}.onnx")
        spec = TensorSpec(name="x", shape=shape)
        computations.append(
            Computation(key=f"calibration-{name}", name=name, form="onnx", file=folder / f"{name}.onnx", inputs=(spec,))
        )
    return computations


def device_index(samples: Sequence[Sequence[float]], reference_s: Mapping[str, float]) -> list[float]:
    """How slow the device was in each round, relative to its reference: the kernels' geometric mean."""
    per_round = zip(*samples, strict=True)
    return [
        exp(sum(log(value / reference_s[name]) for name, value in zip(KERNELS, values, strict=True)) / len(KERNELS))
        for values in per_round
    ]


def device_name() -> str:
    """The processor as people know it, and how many of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model} × {os.cpu_count()}"


def home() -> Path:
    """The user's data folder: LANA_HOME, else the platform's."""
    given = os.environ.get("LANA_HOME")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(given) if given else Path(base) / "lana"


def reference_of_device(
    runtime: str, settings: RuntimeSettings, samples: Sequence[Sequence[float]] | None = None
) -> dict[str, float] | None:
    """The stored reference seconds of each kernel; with samples, they become the reference where there is none."""
    name = "".join(c if c.isalnum() else "-" for c in f"{device_name()}-{runtime}-{settings.threads}")
    path = home() / "devices" / f"{name}.json"
    if path.is_file():
        try:
            stored: dict[str, float] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ProfilerError(f"The device's reference {path} is damaged ({error}). Delete it and measure again.") from error
        return stored
    if samples is None:
        return None
    reference = {kernel: median(values) for kernel, values in zip(KERNELS, samples, strict=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        json.dump(reference, file)
    os.replace(beside, path)
    return reference
