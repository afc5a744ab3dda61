"""OpenVINO on the CPU, from ONNX files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from profilers.computation import Computation
from profilers.errors import BuildFailed
from profilers.runtime import Runtime, RuntimeSettings, Session

_PRECISIONS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


class OpenVino(Runtime):
    """One stream, synchronous requests, denormals flushed, arithmetic in the precision that the settings name."""

    packages = ("openvino",)
    precisions = ("fp32", "fp16", "bf16")

    def __init__(self, settings: RuntimeSettings, *, name: str = "openvino") -> None:
        super().__init__(settings, name=name)
        self.core: Any = None

    def versions(self) -> dict[str, str]:
        # Rows and references of asynchronous requests, each with its hop, are another thing.
        return {**super().versions(), "requests": "synchronous"}

    def computes_in_caller(self) -> bool:
        return self.settings.threads == 1

    def _prepare(self, computation: Computation) -> Session:
        import openvino

        self.core = self.core or openvino.Core()
        compiled = self.core.compile_model(
            str(computation.file),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": str(self.settings.threads),
                "INFERENCE_PRECISION_HINT": _PRECISIONS[self.settings.precision],
                "ENABLE_CPU_PINNING": "NO",  # the settings' affinity decides
                "CPU_DENORMALS_OPTIMIZATION": "YES",
            },
        )
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != _PRECISIONS[self.settings.precision]:  # what it cannot compute in it replaces without a word
            raise BuildFailed(f"OpenVINO computes in {used} on this processor, not in {self.settings.precision}.")
        return OpenVinoSession(compiled, computation)


class OpenVinoSession(Session):
    """An inference request whose inputs stay where they are; its outputs are not copied to Python."""

    def __init__(self, compiled: Any, computation: Computation) -> None:
        import openvino

        self.request = compiled.create_infer_request()
        self.names = [spec.name for spec in computation.inputs]
        # The request does not own its inputs: they must live as long as it.
        self.inputs = [np.ascontiguousarray(sample) for sample in computation.samples()]
        for name, sample in zip(self.names, self.inputs, strict=True):
            self.request.set_tensor(name, openvino.Tensor(sample, shared_memory=True))
        # An asynchronous one runs in a thread of its own: a hop that takes as long as many an operation.
        self.infer = functools.partial(self.request.infer, share_outputs=True)

    def _run(self) -> None:
        self.infer()

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self.request.infer(dict(zip(self.names, inputs, strict=True))).to_tuple())

    def _close(self) -> None:
        del self.request, self.infer, self.inputs
