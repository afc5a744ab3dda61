"""ONNX Runtime with any execution provider that the installed package offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from profilers.computation import Computation
from profilers.environment import gpu
from profilers.errors import BuildFailed
from profilers.runtime import Runtime, RuntimeSettings, Session

_PROVIDERS = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}
_ERROR = 3


def _provider(name: str) -> str:
    return _PROVIDERS.get(name) or name.partition(":")[2]


class OnnxRuntime(Runtime):
    """Sequential execution, all graph optimisations, denormals flushed, threads spinning as deployed by default."""

    packages = ("onnxruntime",)

    def __init__(self, settings: RuntimeSettings, *, name: str = "onnxruntime-cpu") -> None:
        super().__init__(settings, name=name)
        self.provider = _provider(name)
        self.shared = False

    @classmethod
    def missing(cls, name: str) -> str:
        reason = super().missing(name)
        if reason:
            return reason
        import onnxruntime

        offered = onnxruntime.get_available_providers()
        if _provider(name) in offered:
            return ""
        return f"the installed onnxruntime has no {_provider(name)}, only {', '.join(offered)}"

    def dedicate(self) -> None:
        # Threads of a pool spin for some 60 ms after a run. With a pool for each session they would spin into the
        # next one's time (seen: 0.45 ms became 0.82 ms at two threads on two cores), so all sessions share one pool,
        # which spins between runs as a deployed program's does.
        import onnxruntime

        if self.settings.threads > 1:
            onnxruntime.set_global_thread_pool_sizes(self.settings.threads, 1)
            self.shared = True

    def versions(self) -> dict[str, str]:
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}  # the package may be called onnxruntime-gpu or another

    def device(self) -> str:
        return gpu() if any(maker in self.provider for maker in ("CUDA", "Tensorrt")) else ""

    def computes_in_caller(self) -> bool:
        return self.settings.threads == 1 and self.provider == _PROVIDERS["onnxruntime-cpu"]

    def _prepare(self, computation: Computation) -> Session:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERROR
        if self.shared:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = self.settings.threads
            options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        session = onnxruntime.InferenceSession(str(computation.file), options, providers=[self.provider])
        if session.get_providers()[0] != self.provider:  # it falls back with a warning only
            raise BuildFailed(f"{self.provider} could not be started; onnxruntime fell back to another.")
        return OnnxSession(session, computation)


class OnnxSession(Session):
    """Inputs and outputs stay bound where they are computed.

    `session.run` of the Python interface copies each output into a new array. No deployed C or C++ program does this,
    and in a sum over layers the copies would count several times.
    """

    def __init__(self, session: Any, computation: Computation) -> None:
        import onnxruntime

        self.session = session
        self.order = [spec.name for spec in computation.inputs]
        self.names = [value.name for value in session.get_inputs()]
        device = "cuda" if "CUDA" in session.get_providers()[0] else "cpu"
        by_name = {spec.name: array for spec, array in zip(computation.inputs, computation.samples(), strict=True)}
        if set(by_name) != set(self.names):
            raise BuildFailed(f"The file's inputs are {self.names}, the computation's are {sorted(by_name)}.")
        self.binding = session.io_binding()
        # The binding does not own its inputs: they must live as long as it.
        self.inputs = [onnxruntime.OrtValue.ortvalue_from_numpy(by_name[name], device, 0) for name in self.names]
        for name, value in zip(self.names, self.inputs, strict=True):
            self.binding.bind_ortvalue_input(name, value)
        results = [value.name for value in session.get_outputs()]
        for name in results:
            self.binding.bind_output(name, device)
        session.run_with_iobinding(self.binding)
        self.values = self.binding.get_outputs()
        self.binding.clear_binding_outputs()
        for name, value in zip(results, self.values, strict=True):
            self.binding.bind_ortvalue_output(name, value)

    def _run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self.session.run(None, dict(zip(self.order, inputs, strict=True))))

    def _close(self) -> None:
        del self.binding, self.inputs, self.values, self.session
