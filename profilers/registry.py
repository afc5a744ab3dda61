"""The table of runtimes, and a runtime by its name."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

from profilers.errors import RuntimeUnavailable
from profilers.runtime import Runtime, RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class RuntimeStatus:
    """The availability of a runtime: installed or not, and if not, why and how to get it."""

    name: str
    available: bool
    reason: str
    install: str
    versions: Mapping[str, str]


_TORCH_CUDA = "pip install torch, in the build for this system's CUDA (pytorch.org gives the command)"

# name → where its class is, how to get it
RUNTIMES: dict[str, tuple[str, str]] = {
    "onnxruntime-cpu": ("profilers.onnxruntime_runtime:OnnxRuntime", "pip install onnxruntime"),
    "onnxruntime-cuda": ("profilers.onnxruntime_runtime:OnnxRuntime", "pip install onnxruntime-gpu"),
    "openvino": ("profilers.openvino_runtime:OpenVino", "pip install openvino"),
    "tensorrt": ("profilers.tensorrt_runtime:TensorRT", "pip install tensorrt cuda-python"),
    "torch-cpu": ("profilers.torch_runtime:TorchRuntime", "pip install torch"),
    "torch-cpu-compiled": ("profilers.torch_runtime:TorchRuntime", "pip install torch"),
    "torch-cuda": ("profilers.torch_runtime:TorchRuntime", _TORCH_CUDA),
    "torch-cuda-compiled": ("profilers.torch_runtime:TorchRuntime", _TORCH_CUDA),
}


def find_runtime(name: str) -> tuple[type[Runtime], str]:
    """The class of this runtime, installed or not, and how to install it.

    Raises:
        RuntimeUnavailable: there is none of this name.
    """
    if name.startswith("onnxruntime:"):
        gpu = name.removeprefix("onnxruntime:").startswith(("CUDA", "Tensorrt"))
        target, install = RUNTIMES["onnxruntime-cuda" if gpu else "onnxruntime-cpu"]
    elif name in RUNTIMES:
        target, install = RUNTIMES[name]
    else:
        near = difflib.get_close_matches(name, RUNTIMES, n=2)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise RuntimeUnavailable(
            f"There is no runtime {name!r}.{meant} Known: {', '.join(RUNTIMES)}, "
            "and onnxruntime:NAME for an execution provider such as onnxruntime:DnnlExecutionProvider."
        )
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute), install


def create_runtime(name: str, settings: RuntimeSettings) -> Runtime:
    """The runtime of this name.

    Raises:
        RuntimeUnavailable: there is none of this name, or it is not installed.

    >>> create_runtime("onnxruntime-gpu", RuntimeSettings())
    Traceback (most recent call last):
        ...
    profilers.errors.RuntimeUnavailable: There is no runtime 'onnxruntime-gpu'. Did you mean ...
    """
    kind, install = find_runtime(name)
    reason = kind.missing(name)
    if reason:
        raise RuntimeUnavailable(f"Runtime {name!r} cannot be used here: {reason}. Install it with: {install}")
    return kind(settings, name=name)


def runtime_statuses() -> list[RuntimeStatus]:
    """Every runtime known, available or not."""
    statuses = []
    for name in RUNTIMES:
        kind, install = find_runtime(name)
        reason = kind.missing(name)
        versions = {} if reason else kind(RuntimeSettings(), name=name).versions()
        statuses.append(
            RuntimeStatus(name=name, available=not reason, reason=reason, install=install, versions=versions)
        )
    return statuses
