"""TensorRT 10 and 11: engines built from ONNX files, timed with CUDA events.

Networks are strongly typed: TensorRT 11 knows no others, and TensorRT 10 can build them. Precision is then a property
of the file, so fp16 converts the file. None of this has run on a GPU yet; tests on a CPU see a stand-in for TensorRT.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profilers.computation import Computation
from profilers.errors import BuildFailed
from profilers.formats import SUFFIXES
from profilers.half_precision import in_precision
from profilers.runtime import Runtime, RuntimeSettings, Session
from profilers.user_folder import home


class TensorRT(Runtime):
    """One engine a computation; the tactics found for one are kept in a timing cache that all share.

    The measured engine is kept next to its ONNX file (`.engine`), so that the timed engine is delivered. TensorRT
    chooses tactics by timing them, and a second build may choose others.
    """

    packages = ("tensorrt", "cuda.bindings.runtime")
    precisions = ("fp32", "fp16")

    def __init__(self, settings: RuntimeSettings, *, name: str = "tensorrt") -> None:
        super().__init__(settings, name=name)
        self._logger: Any = None

    @classmethod
    def missing(cls, name: str) -> str:
        reason = super().missing(name)
        if reason:
            return reason
        from cuda.bindings import runtime as cuda

        error, count = cuda.cudaGetDeviceCount()
        return "" if error == cuda.cudaError_t.cudaSuccess and count else "there is no CUDA device"

    @classmethod
    def file_precision(cls, settings: RuntimeSettings) -> str | None:
        return settings.precision

    def versions(self) -> dict[str, str]:
        import tensorrt

        return {"tensorrt": str(tensorrt.__version__)}

    def device(self) -> str:
        from cuda.bindings import runtime as cuda

        return str(_checked(cuda.cudaGetDeviceProperties(0)).name.decode())

    def _prepare(self, computation: Computation) -> Session:
        import tensorrt

        self._logger = self._logger or tensorrt.Logger(tensorrt.Logger.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            plan = self._build(in_precision(computation, self.settings.precision, Path(folder)).file)
        computation.file.with_suffix(SUFFIXES["tensorrt"]).write_bytes(plan)
        engine = tensorrt.Runtime(self._logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildFailed("TensorRT could not load the engine that it built.")
        return TensorRTSession(engine, [spec.name for spec in computation.inputs], computation.samples())

    def _build(self, file: Path) -> bytes:
        import tensorrt

        builder = tensorrt.Builder(self._logger)
        network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = tensorrt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(file)):
            problems = [str(parser.get_error(i)) for i in range(parser.num_errors)]
            raise BuildFailed(f"TensorRT cannot read the file: {'; '.join(problems)}")
        config = builder.create_builder_config()
        config.clear_flag(tensorrt.BuilderFlag.TF32)  # fp32 means fp32
        place = self._cache_path()
        cache = config.create_timing_cache(place.read_bytes() if place.is_file() else b"")
        if not config.set_timing_cache(cache, ignore_mismatch=False):  # of another device or version: begun anew
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildFailed("TensorRT built no engine; its messages are above.")
        _replace(place, bytes(config.get_timing_cache().serialize()))
        return bytes(plan)

    def _cache_path(self) -> Path:
        name = f"{self.device()}-{self.versions()['tensorrt']}-{self.settings.precision}.cache"
        return home() / "tensorrt" / name.replace(" ", "-").replace("/", "-")


class TensorRTSession(Session):
    """An execution context with its buffers on the device; runs are timed on the device itself."""

    def __init__(self, engine: Any, order: Sequence[str], inputs: Sequence[np.ndarray]) -> None:
        import tensorrt
        from cuda.bindings import runtime as cuda

        self.engine, self.context = engine, engine.create_execution_context()
        self.stream = _checked(cuda.cudaStreamCreate())
        self.start, self.end = (_checked(cuda.cudaEventCreate()) for _ in range(2))
        self.order = list(order)
        self.buffers: dict[str, int] = {}
        self.results: dict[str, np.ndarray] = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            array = np.zeros(tuple(engine.get_tensor_shape(name)), tensorrt.nptype(engine.get_tensor_dtype(name)))
            self.buffers[name] = _checked(cuda.cudaMalloc(max(array.nbytes, 1)))
            self.context.set_tensor_address(name, self.buffers[name])
            if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.OUTPUT:
                self.results[name] = array
        self._fill(inputs)

    def _fill(self, inputs: Sequence[np.ndarray]) -> None:
        from cuda.bindings import runtime as cuda

        to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        for name, array in zip(self.order, inputs, strict=True):
            array = np.ascontiguousarray(array)
            _checked(cuda.cudaMemcpy(self.buffers[name], array.ctypes.data, array.nbytes, to_device))

    def _run(self) -> None:
        from cuda.bindings import runtime as cuda

        self._start()
        _checked(cuda.cudaStreamSynchronize(self.stream))

    def _start(self) -> None:
        if not self.context.execute_async_v3(self.stream):
            raise BuildFailed("TensorRT could not run the engine.")

    def durations(self, count: int, clock: Callable[[], float]) -> list[float]:
        """Seconds on the device, between events: what the host adds is no property of the network."""
        from cuda.bindings import runtime as cuda

        seconds = []
        for _ in range(count):
            _checked(cuda.cudaEventRecord(self.start, self.stream))
            self._start()
            _checked(cuda.cudaEventRecord(self.end, self.stream))
            _checked(cuda.cudaEventSynchronize(self.end))
            seconds.append(_checked(cuda.cudaEventElapsedTime(self.start, self.end)) / 1e3)
        return seconds

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        from cuda.bindings import runtime as cuda

        self._fill(inputs)
        self._run()
        for name, array in self.results.items():
            to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            _checked(cuda.cudaMemcpy(array.ctypes.data, self.buffers[name], array.nbytes, to_host))
        return [array.copy() for array in self.results.values()]

    def _close(self) -> None:
        from cuda.bindings import runtime as cuda

        for buffer in self.buffers.values():
            cuda.cudaFree(buffer)
        for event in (self.start, self.end):
            cuda.cudaEventDestroy(event)
        cuda.cudaStreamDestroy(self.stream)
        del self.context, self.engine


def _checked(result: tuple[Any, ...]) -> Any:
    """The value of a CUDA call.

    Raises:
        RuntimeError: the call failed.
    """
    error, *values = result
    if int(error) != 0:
        raise RuntimeError(f"CUDA: {error}")
    return values[0] if values else None


def _replace(path: Path, content: bytes) -> None:
    """A cache that cannot be written costs time, nothing else."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
