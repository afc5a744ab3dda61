"""ONNX Runtime with any of its execution providers."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .computation import Computation, example_inputs
from .runtime import Runtime, RuntimeSettings, Session, require


class OnnxSession(Session):
    """Runs with its inputs bound beforehand, as a deployed program that reuses its buffers does."""

    def __init__(self, session: Any, computation: Computation) -> None:
        self.session = session
        self.feed = {spec.name: values for spec, values in zip(computation.inputs, example_inputs(computation), strict=True)}

    def _run(self) -> None:
        self.session.run(None, self.feed)

    def _outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self.session.run(None, dict(zip(self.feed, inputs, strict=True))))

    def close(self) -> None:
        super().close()
        self.session = None


class OnnxRuntime(Runtime):
    """On the CPU: one sequential stream, fixed threads, denormals flushed.

    Random weights can make activations denormal and a layer ten times slower than it is with trained ones.
    """

    name = "onnxruntime-cpu"
    form: ClassVar[str] = "onnx"
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider",)

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        self.onnxruntime = require("onnxruntime", runtime=self.name)

    def prepare(self, computation: Computation) -> Session:
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        session = self.onnxruntime.InferenceSession(str(computation.file), options, providers=list(self.providers))
        return OnnxSession(session, computation)

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": self.onnxruntime.__version__}


class OnnxRuntimeCuda(OnnxRuntime):
    """On an NVIDIA GPU."""

    name = "onnxruntime-cuda"
    providers: ClassVar[tuple[str, ...]] = ("CUDAExecutionProvider",)

    @staticmethod
    def why_not() -> str:
        found = require("onnxruntime", runtime="onnxruntime-cuda").get_available_providers()
        return "" if "CUDAExecutionProvider" in found else f"this onnxruntime has no CUDA, only {', '.join(found)}"
