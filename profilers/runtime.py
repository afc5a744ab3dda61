"""The contract of a runtime.

A new runtime is a file with a `Runtime` and a `Session`, a line in `registry.RUNTIMES`, and a subclass of the
contract tests.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from profilers.computation import Computation
from profilers.errors import BuildFailed, ProfilerError
from profilers.telemetry import SILENT

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """How a runtime runs, the same for all rows of a table.

    Attributes:
        threads: one by default: a serving program often runs several copies, and one thread repeats best.
        batch: examples in one run.
        precision: of the arithmetic, where the runtime chooses it.
        affinity: logical processors to stay on, in order; None leaves it to the system.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    affinity: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        numbers = [self.threads, self.batch, *(self.affinity or ())]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ProfilerError(f"Settings {str(numbers)[:80]}: expected whole numbers.")
        if self.threads < 1 or self.batch < 1:
            raise ProfilerError(f"threads={self.threads}, batch={self.batch}: expected at least 1.")
        if self.precision not in PRECISIONS:
            raise ProfilerError(f"Precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}.")
        if self.affinity is not None and len(set(self.affinity)) < self.threads:
            raise ProfilerError(
                f"affinity={self.affinity} names fewer processors than threads={self.threads}: "
                "expected at least one for each thread."
            )

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["affinity"] = None if self.affinity is None else list(self.affinity)
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RuntimeSettings:
        affinity = fields["affinity"]
        return cls(**{**fields, "affinity": None if affinity is None else tuple(affinity)})


class Session(ABC):
    """A computation, built and loaded with its fixed inputs; `run()` is what is timed.

    A subclass writes `_run`, `outputs` and `_close`; building happens in its construction, outside any timed region.
    """

    def run(self) -> None:
        """Run once on the fixed inputs and return when the result is there."""
        self._run()

    def durations(self, count: int, clock: Callable[[], float]) -> list[float]:
        """Seconds of each of `count` runs, one straight after the other."""
        run, stamps = self._run, [clock()]
        for _ in range(count):
            run()
            stamps.append(clock())
        return [after - before for before, after in itertools.pairwise(stamps)]

    @abstractmethod
    def _run(self) -> None:
        """Run once and synchronise, without copies that a deployed program would not make."""

    @abstractmethod
    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the computation on other inputs of the same shapes and return its outputs; not for timing."""

    def _close(self) -> None:  # noqa: B027 (most need not)
        """Free what the session holds."""

    def close(self) -> None:
        """Free what the session holds; it cannot run again."""
        self._close()
        # Replacing the method costs a run nothing, a check inside `run` would be timed.
        self._run = _closed  # type: ignore[method-assign]

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _closed() -> None:
    raise ProfilerError("This session was closed: prepare the computation again to run it.")


class Runtime(ABC):
    """Turns computations into sessions, all at the same settings. Subclasses write `_prepare`."""

    format: str = "onnx"
    packages: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)

    def __init__(self, settings: RuntimeSettings, *, name: str) -> None:
        if settings.precision not in self.precisions:
            raise ProfilerError(
                f"Runtime {name!r} cannot choose precision {settings.precision!r}: "
                f"it offers {', '.join(self.precisions)}."
            )
        self.settings, self.name = settings, name

    @classmethod
    def missing(cls, name: str) -> str:
        """Why the runtime of this name cannot be used here; empty where it can. Imports its package."""
        for package in cls.packages:
            try:
                importlib.import_module(package)
            except Exception as error:  # a foreign package may fail in any way, as by a library that it lacks
                return f"the package {package!r} cannot be imported: {error}"
        return ""

    @classmethod
    def file_precision(cls, settings: RuntimeSettings) -> str | None:
        """The precision that files must have; None where the runtime computes an fp32 file in the settings' own."""
        return None

    def dedicate(self) -> None:  # noqa: B027 (most runtimes have nothing to do)
        """Arrange a process that does nothing but measure; called once, before anything is prepared."""

    def prepare(self, computation: Computation) -> Session:
        """Build a computation.

        Raises:
            BuildFailed: the runtime does not take it.
        """
        if computation.format != self.format:
            raise BuildFailed(f"{self.name} runs files of format {self.format!r}, got {computation.format!r}.")
        if not computation.file.is_file():
            raise BuildFailed(f"The file {computation.file} is not there.")
        batches = {spec.shape[0] for spec in computation.inputs if spec.shape}
        if batches != {self.settings.batch}:
            raise BuildFailed(
                f"The inputs have batch {sorted(batches)}, the settings have {self.settings.batch}: "
                "export at the batch that is measured."
            )
        try:
            return self._prepare(computation)
        except BuildFailed:
            raise
        except Exception as error:  # runtimes raise errors of many kinds, some of their own
            raise BuildFailed(f"{type(error).__name__}: {error}") from error

    @abstractmethod
    def _prepare(self, computation: Computation) -> Session: ...

    def computes_in_caller(self) -> bool:
        """True if the calling thread computes all of a run, so that its waiting time is the run's."""
        return False

    def kernel(self, name: str, folder: Path) -> Session:
        """The calibration kernel of this name as a session; `folder` is there for files."""
        from profilers.kernels import onnx_kernel

        return self._prepare(onnx_kernel(name, folder, self.file_precision(self.settings) or "fp32"))

    def versions(self) -> dict[str, str]:
        """The packages whose version decides the speed."""
        return {package: version_of(package) for package in self.packages}

    def device(self) -> str:
        """The device that it runs on, where that is not the processor."""
        return ""


def version_of(package: str) -> str:
    """The version by metadata, or by `__version__` where the distribution has another name (openvino-nightly)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(importlib.import_module(package).__version__)


def measuring_environment(settings: RuntimeSettings) -> dict[str, str]:
    """The environment variables of a process that measures: thread pools of every library at one size, no telemetry."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**SILENT, **os.environ, **dict.fromkeys(names, str(settings.threads))}


def pin(settings: RuntimeSettings) -> None:
    """Keep this process on the processors that the settings name.

    Raises:
        ProfilerError: the system cannot, or has no such processors.
    """
    if settings.affinity is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ProfilerError(
            f"affinity={settings.affinity}: {sys.platform} offers no way to pin a process. Leave it out."
        )
    allowed = os.sched_getaffinity(0)
    if not allowed >= set(settings.affinity):  # the system would silently pin to the rest
        raise ProfilerError(f"affinity={settings.affinity}: this process may use {sorted(allowed)}.")
    os.sched_setaffinity(0, settings.affinity)
