"""Runs a job in a fresh process, and names the computation that crashed or hung it."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profilers.computation import Computation
from profilers.errors import MeasurementFailed
from profilers.locks import held, is_held
from profilers.runtime import RuntimeSettings, measuring_environment
from profilers.worker import Status

HOME = str(Path(__file__).resolve().parent.parent)
PREFIX, ALIVE = "lana-measure-", "alive"  # of the folders of measuring processes; the file that its starter locks
YOUNG_S = 60.0  # a folder's lock may not be taken yet
POLL_S = 0.05
START_TIMEOUT_S = 300.0  # of the imports, and of a first calibration on a slow device
KILLED = getattr(signal, "SIGKILL", 9)
MEMORY = ", as the system does where memory runs out (end other programs and repeat the command)"


@dataclass(frozen=True, kw_only=True)
class Blame:
    """A worker that ended without a result: what it was at, and how it ended."""

    item: int
    message: str
    hung: bool = False
    killed: bool = False


def run_job(
    job: Mapping[str, Any],
    *,
    runtime: str,
    settings: RuntimeSettings,
    computations: Sequence[Computation],
    timeout_s: float,
) -> dict[str, Any] | Blame:
    """The worker's result, or whom to blame.

    Raises:
        MeasurementFailed: the process failed before any computation could be to blame.
    """
    remove_left_behind(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder_name, held(Path(folder_name) / ALIVE):
        folder = Path(folder_name)
        path = folder / "job.json"
        fields = {
            **job,
            "runtime": runtime,
            "settings": settings.to_json(),
            "computations": [computation.to_json(folder) for computation in computations],
        }
        path.write_text(json.dumps(fields))
        with (
            (folder / "output").open("wb") as output,
            subprocess.Popen(
                _command(path),
                cwd=folder,
                env=measuring_environment(settings),
                stdin=subprocess.PIPE,  # closes when this process ends, so the worker knows
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                waited_s = _watch(process, folder / "status", timeout_s)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        how = f"no answer within {waited_s:g} s" if waited_s else ended(process.returncode)
        killed = not waited_s and process.returncode == -KILLED
        return _result(folder, runtime, f"{how}{MEMORY if killed else ''}", hung=bool(waited_s), killed=killed)


def _command(job: Path) -> list[str]:
    """The worker, started not by `-m` and in a folder of its own: nothing in the user's folder can shadow a module.

    The standard library comes first, for a backport of its modules may lie where this package is installed.
    """
    return [
        sys.executable,
        "-c",
        f"import os, sys; library = os.path.dirname(os.__file__); place = sys.path.index(library) + 1 "
        f"if library in sys.path else 1; sys.path.insert(place, {HOME!r}); "
        f"from profilers.worker import main; main({str(job)!r})",
    ]


def _result(folder: Path, runtime: str, how: str, *, hung: bool, killed: bool) -> dict[str, Any] | Blame:
    """The result that a process left in its folder, or a message with `how` it ended."""
    result = folder / "result.json"
    if result.exists():
        content: dict[str, Any] = json.loads(result.read_text())
        if "refused" in content:
            raise MeasurementFailed(f"{runtime!r} cannot measure with these settings: {content['refused']}")
        return content
    item = Status.read(folder / "status")[1]
    output = (folder / "output").read_text(errors="replace").strip()
    last = output.splitlines()[-1][:300] if output else "it printed nothing"
    if item < 0:
        raise MeasurementFailed(
            f"The measuring process for {runtime!r} failed before measuring anything: {how}. "
            f"Its output: {output[-1500:] or last}"
        )
    return Blame(item=item, message=f"the measuring process failed: {how}; {last}", hung=hung, killed=killed)


def _watch(process: subprocess.Popen[bytes], status: Path, timeout_s: float) -> float:
    """Wait until the process ends and return 0, or the seconds without progress after which it was stopped."""
    count, changed_s = -1, time.monotonic()
    while True:
        try:
            process.wait(POLL_S)
            return 0.0
        except subprocess.TimeoutExpired:
            pass
        now, item = Status.read(status)
        limit_s = timeout_s if item >= 0 else max(timeout_s, START_TIMEOUT_S)
        if now != count:
            count, changed_s = now, time.monotonic()
        elif time.monotonic() - changed_s > limit_s:
            return limit_s


def remove_left_behind(place: Path) -> None:
    """Remove the folders of measuring processes whose starter was killed: nobody holds their lock."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, or gone meanwhile
            young = time.time() - folder.stat().st_mtime < YOUNG_S
            if not young and (folder / ALIVE).is_file() and not is_held(folder / ALIVE):
                shutil.rmtree(folder, ignore_errors=True)


def ended(code: int) -> str:
    """How a process ended, for people.

    >>> ended(-11), ended(1)
    ('it was ended by SIGSEGV', 'it ended with status 1')
    """
    if code < 0:
        try:
            return f"it was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was ended by signal {-code}"
    return f"it ended with status {code}"
