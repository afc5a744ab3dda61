"""The engine that a user names: auto, local, processes, ray or ray://HOST:PORT."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lana.engines.base import Engine
from lana.engines.local import LocalEngine
from lana.engines.processes import ProcessEngine
from lana.engines.units import Unit
from lana.errors import UserError

ENGINES = "auto, local, processes, ray or ray://HOST:PORT"
WORTH_S = 60.0  # of work on one worker: less is done sooner than workers have started
START_S = 8.0  # of a worker: imports, the teacher, the data
WORKER_BYTES = 3 << 30  # a unit's default, and what a process has loaded


def check_engine(engine: str) -> str:
    """The name of an engine.

    Raises:
        UserError: it is none.
    """
    if engine not in ("auto", "local", "processes", "ray") and not engine.removeprefix("ray://") != engine:
        raise UserError(f"--engine {engine[:60]!r}: expected {ENGINES}.")
    return engine


def create_engine(
    engine: str, units: Sequence[Unit], *, workers: int | None = None, device: str = "cpu", shared: Path | None = None
) -> Engine:
    """The engine for these units; `workers` is by default as many as there are processors, or GPUs with CUDA.

    Hosts of Ray must see the folder `shared`. The choice never changes a result: units do not depend on it.

    Raises:
        UserError: no such engine; Ray is not installed, not there, or has hosts that do not fit.
    """
    gpus = gpus_of(device)
    if engine.startswith("ray"):
        from lana.engines.ray_cluster import RayEngine

        address = engine.removeprefix("ray").removeprefix("://")
        return RayEngine(address=address, workers=workers, gpus=len(gpus) > 0, shared=shared)
    count = worker_count(engine, [unit.seconds for unit in units], workers, device)
    if engine == "local" or (engine == "auto" and count == 1):
        return LocalEngine()
    own_gpu = gpus if device == "cuda" and len(gpus) > 1 else []  # cuda:1 is asked for by all
    one_thread = {"OMP_NUM_THREADS": "1"}
    environments = [{**one_thread, "CUDA_VISIBLE_DEVICES": gpu} for gpu in own_gpu] or [one_thread]
    return ProcessEngine(processes=count, start_method="spawn", environments=environments)


def worker_count(engine: str, seconds: Sequence[float], workers: int | None, device: str) -> int:
    """The workers for units of so many seconds: with `auto` one, unless several end sooner and their memory is free."""
    check_engine(engine)
    gpus = gpus_of(device)
    count = max(1, min(workers or default_workers(gpus), len(seconds)))
    if engine == "local" or (engine == "auto" and sum(seconds) < WORTH_S):
        return 1
    return count if engine != "auto" or workers else max(1, min(count, available_bytes() // WORKER_BYTES))


def default_workers(gpus: Sequence[str]) -> int:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len(gpus) or len(allowed)


def gpus_of(device: str) -> list[str]:
    """The GPUs that workers may take, by their names for CUDA; none where the device is no GPU."""
    if not device.startswith("cuda"):
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names if device == "cuda" else names[int(device.removeprefix("cuda:")) :][:1]


def available_bytes() -> int:
    """Memory that is free, where the system tells it."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until units are done, the longest first, each by the worker that is free first; start-up counts.

    >>> makespan([4.0, 3.0, 3.0], 2) - START_S
    6.0
    """
    busy = [0.0] * max(workers, 1)
    for one in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += one
    return max(busy) + (START_S if workers > 1 else 0.0)
