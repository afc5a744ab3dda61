"""Units of work by name: each is done once, and its value is kept in the run directory, whichever engine did it.

RUN/units/STAGE/plan.json       the units, with their estimated seconds
RUN/units/STAGE/NAME.done       JSON: value, seconds, host
RUN/units/STAGE/NAME.running    JSON: host, process, share that is done
RUN/units/STAGE/NAME.failed     JSON: error, attempts, host
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lana.common.console import bounded
from lana.common.files import read_json, write_json
from lana.common.progress import Progress, counted
from lana.engines.base import Engine
from lana.errors import LanaError

ATTEMPTS = 3  # of a unit whose worker is killed, hangs or lacks memory
STALLED_S = 1800.0  # without progress
REPORT_EVERY_S = 1.0
Report = Callable[[float], None]
Work = Callable[[Any, Report], Any]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of work. The name says what is in it: two units of one name have one value, which is kept as JSON.

    `seconds` is an estimate. `device` names the one that it measures on, which nothing else may use meanwhile.
    """

    name: str
    content: Any
    seconds: float = 0.0
    device: str = ""


def map_units(
    engine: Engine,
    work: Work,
    units: Sequence[Unit],
    folder: Path,
    *,
    title: str,
    stalled_s: float = STALLED_S,
) -> Iterator[tuple[Unit, Any]]:
    """Each unit with its value, as they come; a unit that `folder` holds the value of is not done again.

    A unit whose worker is lost is tried again, `ATTEMPTS` times in all, after the others.

    Raises:
        LanaError: units failed, each named with its error; the others are finished and kept.
    """
    _begin(folder, units)
    open_ = [unit for unit in units if not _path(folder, unit, "done").is_file()]
    for unit in units:
        if unit not in open_:
            yield unit, read_json(_path(folder, unit, "done"))["value"]
    failed: dict[str, str] = {}
    causes: list[Exception] = []
    with Progress(title, len(units)) as progress:
        for attempt in range(1, ATTEMPTS + 1):
            again, watched = [], _Watched(folder, open_, len(units) - len(open_), progress, stalled_s)
            for outcome in engine.map(_Recorded(work, folder, watched), open_, watched):
                unit = open_[outcome.index]
                watched.finished.add(outcome.index)
                if outcome.error is None:
                    watched()
                    yield unit, outcome.value
                elif outcome.lost and attempt < ATTEMPTS:
                    again.append(unit)
                else:
                    failed[unit.name] = _note_failure(folder, unit, outcome.error, attempt)
                    causes += [outcome.cause] if outcome.cause else []
            if not again:
                break
            open_ = again
    if causes:  # one for the user says all
        raise causes[0]
    if failed:
        reasons = "\n".join(f"{name}: {error}" for name, error in failed.items())
        raise LanaError(
            bounded(f"{counted(len(failed), 'unit')} of {len(units)} failed ({title.lower()}):\n{reasons}")
            + "\nFinished units are kept: the same command does the others."
        )
    shutil.rmtree(folder, ignore_errors=True)  # all values are with the caller


def failures(folder: Path) -> dict[str, str]:
    """The errors of the units that failed when those of `folder` were last done, by name."""
    return {path.stem: read_json(path)["error"].strip() for path in sorted(folder.glob("*.failed"))}


def _path(folder: Path, unit: Unit, state: str) -> Path:
    return folder / f"{unit.name}.{state}"


def _begin(folder: Path, units: Sequence[Unit]) -> None:
    for left in [*folder.glob("*.running"), *folder.glob("*.failed")]:
        left.unlink()
    write_json(folder / "plan.json", {unit.name: {"seconds": unit.seconds, "device": unit.device} for unit in units})


def _note_failure(folder: Path, unit: Unit, error: str, attempts: int) -> str:
    running = _path(folder, unit, "running")
    host = read_json(running, {}).get("host", "")
    running.unlink(missing_ok=True)
    write_json(_path(folder, unit, "failed"), {"error": error, "attempts": attempts, "host": host})
    return f"{error.strip().splitlines()[-1]} ({counted(attempts, 'attempt')}{' on ' * bool(host)}{host})"


@dataclass(eq=False)
class _Recorded:
    """The function of a unit that an engine computes: it notes the start, the progress and the value in the folder."""

    work: Work
    folder: Path
    on_report: Callable[[], object] | None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "on_report": None}  # of the starter alone

    def __call__(self, unit: Unit) -> Any:
        running, start_s, last_s = _path(self.folder, unit, "running"), time.monotonic(), -REPORT_EVERY_S
        about = {"host": platform.node(), "process": os.getpid()}

        def report(share: float) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= REPORT_EVERY_S:
                last_s = time.monotonic()
                write_json(running, {**about, "share": share, "seconds": last_s - start_s})
                if self.on_report is not None:
                    self.on_report()

        report(0.0)
        value = self.work(unit.content, report)
        done = {**about, "seconds": round(time.monotonic() - start_s, 3), "value": value}
        write_json(_path(self.folder, unit, "done"), done)
        running.unlink(missing_ok=True)
        return value


@dataclass(eq=False)
class _Watched:
    """Shows the progress of units, and finds those that make none."""

    folder: Path
    units: Sequence[Unit]
    before: int
    progress: Progress
    stalled_s: float
    finished: set[int] = field(default_factory=set)
    _seen: dict[int, tuple[float, float]] = field(default_factory=dict)
    _last_s: float = 0.0

    def __call__(self) -> list[int]:
        now_s = time.monotonic()
        if now_s - self._last_s < REPORT_EVERY_S:
            return []
        self._last_s, shares, stalled = now_s, 0.0, []
        for index, unit in enumerate(self.units):
            running = {} if index in self.finished else _read(_path(self.folder, unit, "running"))
            if not running:
                continue
            shares += running["share"]
            state = running["seconds"]
            if self._seen.get(index, (None,))[0] != state:
                self._seen[index] = (state, now_s)
            elif now_s - self._seen[index][1] > self.stalled_s:
                stalled.append(index)
        self.progress.update(self.before + len(self.finished) + shares)
        return stalled


def _read(path: Path) -> Mapping[str, Any]:
    """A record that its worker may just be replacing or removing."""
    with contextlib.suppress(LanaError):
        return read_json(path, {})
    return {}
