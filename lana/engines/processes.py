"""The engine that computes several units at once, in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from lana.engines.base import Outcome, Unit, Value, attempt


@dataclass(frozen=True, kw_only=True)
class ProcessEngine:
    """Up to `processes` workers, each with one unit at a time; a worker that is killed costs its unit only.

    Workers that are forked share what this process has loaded, and need no serialisable function. This process then
    has one thread, and no GPU in use: neither comes along. `start_method` is one of `multiprocessing`'s, by default
    the platform's.
    """

    processes: int
    start_method: str | None = None

    def map(self, function: Callable[[Unit], Value], units: Sequence[Unit]) -> Iterator[Outcome[Value]]:
        context, waiting = multiprocessing.get_context(self.start_method), deque(enumerate(units))
        workers: list[_Worker] = []
        try:
            while waiting or workers:
                while waiting and len(workers) < self.processes:
                    workers.append(_Worker(context, function, *waiting.popleft()))
                ready = wait([worker.pipe for worker in workers])
                for worker in [worker for worker in workers if worker.pipe in ready]:
                    outcome, alive = worker.outcome()
                    if alive and waiting:
                        worker.send(*waiting.popleft())
                    else:
                        workers.remove(worker)
                        worker.stop()
                    yield outcome
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """A process with a unit to compute."""

    def __init__(self, context: BaseContext, function: Callable[[Any], Any], index: int, unit: Any) -> None:
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
            return Outcome(index=self.index, error=f"Its process ended with exit code {self.process.exitcode}."), False

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Compute units until the process that started this one ends it or ends itself."""
    starter = multiprocessing.parent_process()
    watched: list[Any] = [pipe] if starter is None else [pipe, starter.sentinel]
    while pipe in wait(watched):
        try:
            index, unit = pipe.recv()
        except EOFError:
            return
        outcome = attempt(function, index, unit)
        try:
            pipe.send(outcome)
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # the value is not serialisable
            pipe.send(Outcome(index=index, error=f"Its value cannot be sent: {error}"))
