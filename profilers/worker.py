"""A measuring process: reads a job, prepares its computations, measures them, writes what it found.

It is started fresh (`python -c "from profilers.worker import main; main(...)"`), never forked from a program that has
threads and libraries of its own. It tells through a small status file what it is at, so that whoever started it knows
which computation crashed it or hangs.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from profilers.calibration import Calibrator
from profilers.clock import Clocks, switch_counter, waited_s, working_clock
from profilers.computation import Computation
from profilers.errors import BuildFailed, ProfilerError
from profilers.measurement import Measurement
from profilers.pairing import paired_rounds
from profilers.registry import create_runtime
from profilers.runtime import Runtime, RuntimeSettings, Session, pin
from profilers.timing import Item, Protocol, sample

STARTING, CALIBRATING = -2, -1  # what a worker is at when no item is to blame
_STATUS = struct.Struct("<qq")  # a counter that changes with every step, and the index of the item


class Status:
    """Written by the worker, read by whoever started it; 16 bytes in place, a microsecond to write."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
        self.count, self.item = 0, STARTING

    def write(self, item: int) -> None:
        self.count, self.item = self.count + 1, item
        os.lseek(self.file, 0, os.SEEK_SET)
        os.write(self.file, _STATUS.pack(self.count, item))

    @staticmethod
    def read(path: Path) -> tuple[int, int]:
        """The counter, and the item."""
        content = path.read_bytes() if path.exists() else b""
        return _STATUS.unpack(content) if len(content) == _STATUS.size else (0, STARTING)


def main(job_path: str) -> None:
    """Do the job of this file and write `result.json` beside it."""
    path = Path(job_path)
    end_with_the_starter(path.parent)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to a whole group: then too, what is left here is removed
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    job = json.loads(path.read_text())
    status = Status(path.with_name("status"))
    status.write(STARTING)
    try:
        result = _done(job, status, path.parent)
    except ProfilerError as error:
        if status.item >= 0:  # the item is to blame
            raise
        result = {"refused": str(error)}
    beside = path.with_name("result.tmp")
    beside.write_text(json.dumps(result))
    os.replace(beside, path.with_name("result.json"))
    sys.stdout.flush()
    # Runtimes differ in how cleanly they shut down; all is written.
    os._exit(0)


def _done(job: Mapping[str, Any], status: Status, folder: Path) -> dict[str, Any]:
    settings = RuntimeSettings.from_json(job["settings"])
    pin(settings)
    runtime = create_runtime(job["runtime"], settings)
    runtime.dedicate()
    computations = [Computation.from_json(fields, folder) for fields in job["computations"]]
    kind = {"sweep": _sweep, "compare": _compare}[job["kind"]]
    return kind(job, runtime, computations, status, folder)


def end_with_the_starter(folder: Path | None = None) -> None:
    """End this process when the one that started it, with a pipe as standard input, does: left behind, it would disturb
    what is measured next. A `folder` that only that one would have removed goes with it.
    """

    def watch() -> None:
        while os.read(0, 1):  # blocked in the system, it takes nothing from what is timed
            pass
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _prepare(
    runtime: Runtime, computations: Sequence[Computation], status: Status
) -> tuple[dict[int, Session], dict[int, str]]:
    """Sessions that have run once, and the errors of those that have not, by index."""
    sessions: dict[int, Session] = {}
    errors: dict[int, str] = {}
    for i, computation in enumerate(computations):
        status.write(i)
        try:
            session = runtime.prepare(computation)
            session.run()
            sessions[i] = session
        except BuildFailed as error:
            errors[i] = str(error)
        except Exception as error:  # of the runtime, at the first run: out of memory, inputs that an operator refuses
            errors[i] = f"{type(error).__name__}: {error}"
    gc.collect()
    gc.freeze()
    gc.disable()
    return sessions, errors


def _watching(runtime: Runtime) -> Clocks:
    alone = runtime.computes_in_caller()
    return Clocks(working=working_clock() if alone else None, switches=switch_counter(of_thread=alone))


def _sweep(
    job: Mapping[str, Any], runtime: Runtime, computations: Sequence[Computation], status: Status, folder: Path
) -> dict[str, Any]:
    status.write(CALIBRATING)
    clocks = _watching(runtime)
    calibrator = Calibrator(runtime, folder, clocks, job["reference_s"])
    sessions, errors = _prepare(runtime, computations, status)
    places, items = list(sessions), [Item(session, []) for session in sessions.values()]

    def calibrate() -> float:
        status.write(CALIBRATING)
        return calibrator.index()

    protocol = Protocol(**job["protocol"])
    try:
        sample(
            items,
            protocol=protocol,
            calibrate=calibrate,
            clocks=clocks,
            process=job["process"],
            at=lambda item: status.write(places[item]),
        )
    except Exception:  # of the runtime
        if not errors or status.item != CALIBRATING:
            raise
        places, items = [], []  # one that failed broke the device's context for what came after it
    return {
        "reference_s": calibrator.reference_s,
        "rounds": {
            computations[i].key: Measurement(rounds=tuple(item.rounds)).to_json()
            for i, item in zip(places, items, strict=True)
        },
        "errors": {computations[i].key: message for i, message in errors.items()},
    }


def _compare(
    job: Mapping[str, Any], runtime: Runtime, computations: Sequence[Computation], status: Status, folder: Path
) -> dict[str, Any]:
    sessions, errors = _prepare(runtime, computations, status)
    if errors:
        return {"errors": errors}
    clocks = _watching(runtime)
    kernels = None
    if clocks.switches is None:
        status.write(CALIBRATING)
        kernels = Calibrator(runtime, folder, clocks, None).index
    start_s, waited_before_s = clocks.plain(), waited_s()
    found = paired_rounds(
        sessions[0],
        [sessions[i] for i in range(1, len(computations))],
        seconds=job["seconds"],
        seed=job["seed"],
        clocks=clocks,
        at=lambda item: status.write(item + 1),
        kernels=kernels,
    )
    waited = min(1.0, max(0.0, (waited_s() - waited_before_s) / (clocks.plain() - start_s)))
    return {**asdict(found), "errors": {}, "waited": waited, "watched": "switches" if kernels is None else "kernels"}
