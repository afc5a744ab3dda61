"""PyTorch on CPU and CUDA, eager and compiled: runs programs that `torch.export` wrote."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profilers.computation import Computation, TensorSpec
from profilers.errors import BuildFailed
from profilers.kernels import CHAIN, conv_weight, kernel_shape
from profilers.runtime import Runtime, RuntimeSettings, Session

MANY = 100_000  # computations of a process


class TorchRuntime(Runtime):
    """Inference mode; half precision by autocast, as a user of PyTorch would run it."""

    format = "torch_export"
    packages = ("torch",)
    precisions = ("fp32", "fp16", "bf16")

    def __init__(self, settings: RuntimeSettings, *, name: str = "torch-cpu") -> None:
        super().__init__(settings, name=name)
        self.cuda, self.compiled = "cuda" in name, name.endswith("compiled")

    @classmethod
    def missing(cls, name: str) -> str:
        reason = super().missing(name)
        if reason:
            return reason
        import torch

        if "cuda" in name and not torch.cuda.is_available():
            return "the installed torch sees no CUDA device"
        if name == "torch-cpu-compiled" and not shutil.which(os.environ.get("CXX", "g++")):
            return "torch.compile needs a C++ compiler (g++, or the one that CXX names)"
        return ""

    def dedicate(self) -> None:
        import torch

        torch.set_num_threads(self.settings.threads)
        torch.set_num_interop_threads(1)
        torch.set_flush_denormal(True)

    def computes_in_caller(self) -> bool:
        return self.settings.threads == 1 and not self.cuda

    def device(self) -> str:
        if not self.cuda:
            return ""
        import torch

        return torch.cuda.get_device_name()

    def _prepare(self, computation: Computation) -> Session:
        import torch
        from torch.export.passes import move_to_device_pass

        program = torch.export.load(computation.file)
        if self.cuda:  # the constants and devices that the program was written with as well
            program = move_to_device_pass(program, "cuda")
        return self._session(program.module(), computation.inputs, computation.samples())

    def kernel(self, name: str, folder: Path) -> Session:
        import torch

        # Written as functions: the kernels are to be the same work as the ONNX files', not to test torch.export.
        weight = torch.from_numpy(conv_weight()).to("cuda" if self.cuda else "cpu")

        def compute(x: Any) -> Any:
            return torch.nn.functional.conv2d(x, weight, padding=1)

        def dispatch(x: Any) -> Any:
            for _ in range(CHAIN // 2):
                x = torch.sigmoid(torch.tanh(x))
            return x

        functions: dict[str, Callable[[Any], Any]] = {"compute": compute, "memory": torch.relu, "dispatch": dispatch}
        spec = TensorSpec(name="x", shape=kernel_shape(name), dtype="float32")
        return self._session(functions[name], (spec,), [spec.sample(np.random.default_rng(0))])

    def _session(self, function: Callable[..., Any], specs: Sequence[TensorSpec], samples: Sequence[Any]) -> Session:
        import torch

        if self.compiled:
            # By default it gives up after eight computations that share code. (A reset between them would throw away
            # what was compiled, and their first timed run would compile once more.)
            torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MANY
            function = torch.compile(function)
        return TorchSession(function, samples, cuda=self.cuda, precision=self.settings.precision)


class TorchSession(Session):
    """A function with its inputs on the device; a run on CUDA ends with a synchronisation."""

    def __init__(self, function: Callable[..., Any], samples: Sequence[Any], *, cuda: bool, precision: str) -> None:
        import torch

        self.device = "cuda" if cuda else "cpu"
        self.half = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self.function = function
        self.inputs = [torch.from_numpy(sample).to(self.device) for sample in samples]
        self.synchronise = torch.cuda.synchronize if cuda else _nothing
        try:
            self._run()  # compiles
        except Exception as error:  # the network's own code, or a compiler's
            raise BuildFailed(f"{type(error).__name__}: {error}") from error

    def _call(self, inputs: Sequence[Any]) -> Any:
        import torch

        with torch.inference_mode(), torch.autocast(self.device, self.half, enabled=self.half is not None):
            return self.function(*inputs)

    def _run(self) -> None:
        self._call(self.inputs)
        self.synchronise()

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        results = self._call([torch.from_numpy(array).to(self.device) for array in inputs])
        leaves = torch.utils._pytree.tree_leaves(results)
        return [leaf.float().cpu().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def _close(self) -> None:
        del self.function, self.inputs


def _nothing() -> None:
    """The CPU needs no synchronisation."""
