"""The engine that computes several units at once, in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from lana.engines.base import POLL_S, Outcome, Unit, Value, Watch, attempt, nothing_stalls

STOP_S = 5.0  # for a worker that is to end by itself
LOST_MEMORY = " The system kills processes where memory runs out."


@dataclass(frozen=True, kw_only=True)
class ProcessEngine:
    """Up to `processes` workers, each with one unit at a time; a worker that is killed costs its unit only.

    Workers that are forked share what this process has loaded, and need no serialisable function. This process then
    has one thread, and no GPU in use: neither comes along. `start_method` is one of `multiprocessing`'s, by default
    the platform's. Worker number n is started with the variables `environments[n]`, or of the next round of them.
    """

    processes: int
    start_method: str | None = None
    environments: Sequence[Mapping[str, str]] = ({},)

    def map(
        self, function: Callable[[Unit], Value], units: Sequence[Unit], watch: Watch = nothing_stalls
    ) -> Iterator[Outcome[Value]]:
        context, waiting = multiprocessing.get_context(self.start_method), deque(enumerate(units))
        workers: list[_Worker] = []
        try:
            while waiting or workers:
                while waiting and len(workers) < self.processes:
                    slot = min(set(range(self.processes)) - {worker.slot for worker in workers})
                    with _started_with(self.environments[slot % len(self.environments)]):
                        workers.append(_Worker(context, function, slot, *waiting.popleft()))
                ready = wait([worker.pipe for worker in workers], POLL_S)
                stalled = watch()
                for worker in [worker for worker in workers if worker.pipe in ready or worker.index in stalled]:
                    outcome, alive = worker.outcome() if worker.pipe in ready else worker.stalled()
                    if alive and waiting:
                        worker.send(*waiting.popleft())
                    else:
                        workers.remove(worker)
                        worker.stop()
                    yield outcome
        finally:
            for worker in workers:
                worker.stop()


@contextlib.contextmanager
def _started_with(environment: Mapping[str, str]) -> Iterator[None]:
    """Variables for a new process, which does not run the user's script again: it may have no `if __name__`."""
    main, before = sys.modules["__main__"], dict(os.environ)
    kept, spec = main.__dict__.pop("__file__", None), main.__spec__
    main.__spec__ = None
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        main.__spec__ = spec
        if kept is not None:
            main.__file__ = kept


class _Worker:
    """A process with a unit to compute."""

    def __init__(self, context: BaseContext, function: Callable[[Any], Any], slot: int, index: int, unit: Any) -> None:
        self.slot = slot
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(function, theirs), daemon=True)  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()  # the worker's alone, so that the pipe ends with it
        self.send(index, unit)

    def send(self, index: int, unit: Any) -> None:
        self.index = index
        with contextlib.suppress(BrokenPipeError):  # killed while it waited: its end shows in the outcome
            self.pipe.send((index, unit))

    def outcome(self) -> tuple[Outcome[Any], bool]:
        """The outcome of the worker's unit, and whether the worker lives on."""
        try:
            return self.pipe.recv(), True
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            hint = LOST_MEMORY if code == -getattr(signal, "SIGKILL", 9) else ""
            error = f"Its process ended with exit code {code}.{hint}"
            return Outcome(index=self.index, error=error, lost=True), False

    def stalled(self) -> tuple[Outcome[Any], bool]:
        self.process.kill()
        return Outcome(index=self.index, error="It made no progress and was stopped.", lost=True), False

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join(STOP_S)
        self.process.kill()
        self.process.join()


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Compute units until the process that started this one ends it or ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the starter ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what a unit has started ends with it
    threading.Thread(target=_end_with_starter, daemon=True).start()
    with contextlib.suppress(SystemExit):
        _serve(function, pipe)
    os._exit(1)  # Python's own end takes a second with torch, and must not be interrupted


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    while True:
        try:
            index, unit = pipe.recv()
        except (EOFError, ConnectionError):
            return
        outcome = attempt(function, index, unit)
        try:
            pipe.send(outcome)
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # the value is not serialisable
            pipe.send(Outcome(index=index, error=f"Its value cannot be sent: {error}"))


def _end_with_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        wait([starter.sentinel])
        os._exit(1)
