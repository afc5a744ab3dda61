"""The engine that computes units on the hosts of a Ray cluster; the run directory is one that all of them see."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lana.common.importing import require
from lana.engines.base import POLL_S, Outcome, Unit, Value, Watch, attempt, nothing_stalls
from lana.errors import UserError
from lana.version import __version__

PORT = 6379  # of `ray start --head`
CLIENT_PORT = 10001  # of Ray's client, whose server is no head
PROBE_S = 5.0
CHECK_S = 120.0  # of a host's answer, which imports torch


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """A unit at a time on each processor (or GPU) of a cluster, `workers` at most.

    Without an address it is the cluster of RAY_ADDRESS, or one of this machine alone. A unit of a device runs where
    Ray's resource `device:NAME` is.
    """

    address: str = ""
    workers: int | None = None
    gpus: bool = False
    shared: Path | None = None

    def map(
        self, function: Callable[[Unit], Value], units: Sequence[Unit], watch: Watch = nothing_stalls
    ) -> Iterator[Outcome[Value]]:
        if not units:
            return
        ray = require("ray", extra="ray")
        with self._connected(ray):
            compute = ray.remote(_compute)
            needs = {"num_cpus": 1, "num_gpus": int(self.gpus), "max_retries": 0}
            sent, waiting = ray.put(function), deque(enumerate(units))
            running: dict[Any, int] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < self._room(ray):
                        index, unit = waiting.popleft()
                        if missing := _missing_resource(ray, unit):
                            yield Outcome(index=index, error=missing, cause=UserError(missing))
                            continue
                        task = compute.options(**needs, resources=_resources(unit)).remote([sent], index, unit)
                        running[task] = index
                    ready, _ = ray.wait(list(running), timeout=POLL_S) if running else ([], [])
                    for task in ready:
                        yield _outcome(ray, task, running.pop(task))
                    for task in [task for task, index in running.items() if index in watch()]:
                        ray.cancel(task, force=True)
                        yield Outcome(index=running.pop(task), error="It made no progress and was stopped.", lost=True)
            finally:
                for task in running:
                    ray.cancel(task, force=True)

    def _room(self, ray: Any) -> int:
        """Units at a time: as many as there are processors (or GPUs) now, for hosts come and go."""
        there = int(ray.cluster_resources().get("GPU" if self.gpus else "CPU", 0))
        return max(1, there if self.workers is None else min(self.workers, there))

    @contextlib.contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        """A connection, whose hosts have been checked; one of the caller's own stays open."""
        if ray.is_initialized():
            self._check_hosts(ray)
            yield
            return
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        if address:
            address = probe(address)
        try:
            ray.init(address=address or "local", log_to_driver=False, include_dashboard=None, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:  # another version of Python or Ray, too
            raise UserError(f"Ray at {address or 'this machine'} cannot be used: {str(error)[:500]}") from error
        try:
            self._check_hosts(ray)
            yield
        finally:
            ray.shutdown()

    def _check_hosts(self, ray: Any) -> None:
        """Refuse hosts with other versions, or without the run directory: one message for all.

        Raises:
            UserError: see above.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here, faults, lost = versions(self.shared), [], []
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        check, asked = ray.remote(_versions_by_value()), {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            task = check.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(self.shared)
            asked[task] = node
        for task, node in asked.items():
            try:
                found = ray.get(task, timeout=CHECK_S)
            except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
                lost.append(node)  # meanwhile
                continue
            except ray.exceptions.RayError as error:
                faults.append(f"{node['NodeManagerAddress']}: {str(error).strip().splitlines()[-1][:200]}")
                continue
            unlike = [f"{name} {found[name]} there, {here[name]} here" for name in here if found[name] != here[name]]
            faults += [f"{node['NodeManagerAddress']}: {', '.join(unlike)}"] if unlike else []
        if faults or len(lost) == len(nodes):
            reasons = "; ".join(dict.fromkeys(faults)) or "there is no host with a processor"
            raise UserError(
                f"Hosts of the Ray cluster do not fit ({reasons}). Every host needs the same Python, torch and lana, "
                "and the run directory at the same path."
            )


def probe(address: str) -> str:
    """HOST:PORT of a cluster's head that answers.

    Raises:
        UserError: nothing answers there.
    """
    host, _, port = address.removeprefix("ray://").partition(":")
    advice = "Give --engine ray://HOST:PORT as `ray start --head` prints it (port 6379), or --engine ray."
    if not host or not (port or "1").isdigit() or port == str(CLIENT_PORT):
        raise UserError(f"--engine ray://{address[:60]} is no address of a head. {advice}")
    try:
        socket.create_connection((host, int(port or PORT)), timeout=PROBE_S).close()
    except OSError as error:
        raise UserError(f"No Ray cluster answers at {host}:{port or PORT} ({error}). {advice}") from error
    return f"{host}:{port or PORT}"


def versions(shared: Path | None) -> dict[str, str]:
    """The versions that units depend on, and whether the run directory is seen."""
    import torch

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "lana": __version__,
        f"{shared}": "is seen" if shared is None or shared.is_dir() else "is not seen",
    }


def _versions_by_value() -> Callable[[Path | None], dict[str, str]]:
    """A function that a host without lana can answer, too: Ray sends functions of `__main__` by value."""

    def asked(shared: Path | None) -> dict[str, str]:
        from lana.engines.ray_cluster import versions

        return versions(shared)

    asked.__module__ = "__main__"
    return asked


def _resources(unit: Any) -> dict[str, float]:
    device = getattr(unit, "device", "")
    return {f"device:{device}": 1.0} if device else {}


def _missing_resource(ray: Any, unit: Any) -> str:
    """A resource that nobody has would be waited for without end."""
    missing = [name for name in _resources(unit) if name not in ray.cluster_resources()]
    return f"No host of the Ray cluster has the resource {missing[0]!r}: it is offline." if missing else ""


def _outcome(ray: Any, task: Any, index: int) -> Outcome[Any]:
    try:
        outcome: Outcome[Any] = ray.get(task)
        return outcome
    except ray.exceptions.RayTaskError as error:  # the unit, its value or its function cannot be sent
        return Outcome(index=index, error=f"It cannot be sent to a worker: {error}")
    except ray.exceptions.RayError as error:  # a worker or its host was lost, or its memory ran out
        return Outcome(index=index, error=" ".join(str(error).split())[:300], lost=True)


@functools.lru_cache(maxsize=1)
def _received(function: Any) -> Any:
    """The function of a map, loaded once a worker."""
    import ray

    return ray.get(function)


def _compute(function: list[Any], index: int, unit: Any) -> Outcome[Any]:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return attempt(_received(function[0]), index, unit)
