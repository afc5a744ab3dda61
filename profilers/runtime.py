"""What every runtime does: prepare a computation outside the timed region, run it synchronised."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, TracebackType
from typing import ClassVar, Self

import numpy as np

from .computation import Computation
from .errors import ProfilerError, RuntimeUnavailable


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Settings that decide the speed, and so belong to a table.

    One thread is the default since it is what can be repeated: more threads wait for whatever else runs.

    Raises:
        ProfilerError: a setting is out of its range.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    affinity: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.threads < 1 or self.batch < 1:
            raise ProfilerError(f"Expected threads and batch of at least 1, got {self.threads} and {self.batch}.")
        if self.precision not in ("fp32", "fp16"):
            raise ProfilerError(f"Unknown precision {self.precision!r}: expected fp32 or fp16.")


class Session(ABC):
    """A computation that is built and ready; closing it frees what it holds."""

    _closed = False

    def run(self) -> None:
        """Run once on fixed inputs and wait until the outputs are there."""
        if self._closed:
            raise ProfilerError("The session is closed. Prepare the computation again.")
        self._run()

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for given inputs."""
        if self._closed:
            raise ProfilerError("The session is closed. Prepare the computation again.")
        return self._outputs(inputs)

    def close(self) -> None:
        self._closed = True

    @abstractmethod
    def _run(self) -> None: ...

    @abstractmethod
    def _outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(ABC):
    """Builds sessions at fixed settings."""

    name: str
    form: ClassVar[str]

    def __init__(self, settings: RuntimeSettings) -> None:
        self.settings = settings

    @abstractmethod
    def prepare(self, computation: Computation) -> Session:
        """Build outside any timed region.

        Raises:
            Exception: whatever the runtime raises for a computation that it cannot build.
        """

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of what decides the speed."""


# name → (module:class, packages, how to install)
_RUNTIMES = {
    "onnxruntime-cpu": ("onnxruntime_runtime:OnnxRuntime", ("onnxruntime",), "pip install onnxruntime"),
    "onnxruntime-cuda": ("onnxruntime_runtime:OnnxRuntimeCuda", ("onnxruntime",), "pip install onnxruntime-gpu"),
}


@dataclass(frozen=True, kw_only=True)
class RuntimeStatus:
    """Whether a runtime can be used here, and if not, why and what to install."""

    name: str
    available: bool
    reason: str
    install: str


def create_runtime(name: str, settings: RuntimeSettings) -> Runtime:
    """The runtime of this name.

    Raises:
        RuntimeUnavailable: unknown (near names are offered), or not installed (the command is given).
    """
    if name not in _RUNTIMES:
        close = difflib.get_close_matches(name, _RUNTIMES, n=3, cutoff=0.3)
        raise RuntimeUnavailable(
            f"Unknown runtime {name!r}. Did you mean {', '.join(close) or ', '.join(_RUNTIMES)}? "
            f"Known: {', '.join(_RUNTIMES)}."
        )
    status = _status(name)
    if not status.available:
        raise RuntimeUnavailable(f"The runtime {name!r} cannot be used here: {status.reason}. Try: {status.install}")
    module, _, cls = _RUNTIMES[name][0].partition(":")
    runtime: Runtime = getattr(import_module(f".{module}", __package__), cls)(settings)
    return runtime


def runtime_statuses() -> list[RuntimeStatus]:
    """Every runtime that is known, available here or not."""
    return [_status(name) for name in _RUNTIMES]


def _status(name: str) -> RuntimeStatus:
    target, packages, install = _RUNTIMES[name]
    missing = [package for package in packages if find_spec(package) is None]
    reason = f"the package {', '.join(missing)} is not installed" if missing else ""
    if not missing:
        module, _, cls = target.partition(":")
        check = getattr(getattr(import_module(f".{module}", __package__), cls), "why_not", None)
        reason = check() if check else ""
    return RuntimeStatus(name=name, available=not reason, reason=reason, install=install)


def require(module: str, *, runtime: str) -> ModuleType:
    """Import an optional package, or say how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise RuntimeUnavailable(
            f"Runtime {runtime!r} needs the package {module!r}, which could not be imported ({error}). "
            f"Try: {_RUNTIMES[runtime][2]}"
        ) from error
