"""Three small fixed kernels, timed with every measurement so that figures of different days compare.

The speed of a shared machine drifts by some 15% over minutes; measurements taken next to each other drift together. A
round's calibration index is the kernels' time in it over that in the device's stored reference. A latency is the
measured time divided by that index.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from profilers.clock import Clock, Clocks
from profilers.errors import ProfilerError
from profilers.kernels import KERNELS
from profilers.runtime import Runtime, RuntimeSettings, Session
from profilers.table_columns import check_reference
from profilers.user_folder import home

VERSION = 1  # of the kernels; a change of any makes other references

REFERENCE_VISITS = 60  # about half a second; their median is the reference

VISIT_S = 0.0015  # of one kernel; an index costs three of them


class Calibrator:
    """The kernels' sessions in a measuring process, and the index that they give."""

    def __init__(self, runtime: Runtime, folder: Path, clocks: Clocks, reference_s: Mapping[str, float] | None) -> None:
        self.sessions: dict[str, Session] = {name: runtime.kernel(name, folder) for name in KERNELS}
        self.clocks: dict[str, Clock] = {}
        self.counts: dict[str, int] = {}
        for name, session in self.sessions.items():
            session.durations(3, clocks.plain)
            run_s = min(session.durations(3, clocks.plain))
            self.clocks[name] = clocks.get(run_s)
            self.counts[name] = max(1, min(20, math.ceil(VISIT_S / run_s)))
        self.reference_s = dict(reference_s) if reference_s else self._new_reference()

    def visit(self) -> dict[str, float]:
        """Seconds of one run of each kernel, now; the first run after others only warms up."""
        return {
            name: statistics.median(session.durations(1 + self.counts[name], self.clocks[name])[1:])
            for name, session in self.sessions.items()
        }

    def index(self) -> float:
        """How many times longer than in the reference the kernels take now: 1.0 on a quiet machine."""
        return index_of(self.visit(), self.reference_s)

    def _new_reference(self) -> dict[str, float]:
        visits = [self.visit() for _ in range(REFERENCE_VISITS)]
        return {name: statistics.median(visit[name] for visit in visits) for name in KERNELS}


def index_of(visit: Mapping[str, float], reference_s: Mapping[str, float]) -> float:
    """The geometric mean over the kernels of time over reference: no kind of slowness counts more than another.

    >>> quiet = {"compute": 1e-3, "memory": 1e-3, "dispatch": 1e-5}
    >>> index_of({"compute": 2e-3, "memory": 1e-3, "dispatch": 4e-5}, quiet)
    2.0
    """
    ratios = [visit[name] / reference_s[name] for name in KERNELS]
    return round(math.prod(ratios) ** (1 / len(ratios)), 12)


def rescale(theirs_s: Mapping[str, float], ours_s: Mapping[str, float]) -> float:
    """The factor that converts milliseconds under one reference to milliseconds under another.

    >>> rescale({"compute": 1.0, "memory": 1.0, "dispatch": 1.0}, {"compute": 1.1, "memory": 1.1, "dispatch": 1.1})
    1.1
    """
    return index_of(ours_s, theirs_s)


def reference_path(device: str, runtime: str, versions: Mapping[str, str], settings: RuntimeSettings) -> Path:
    """Where the reference of a device, runtime and setting is kept."""
    identity = json.dumps([VERSION, device, runtime, dict(versions), settings.to_json()], sort_keys=True)
    plain = re.sub(r"[^a-z0-9]+", "-", f"{device} {runtime}".lower()).strip("-")[:80]
    return home() / "devices" / f"{plain}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}.json"


def read_reference(path: Path) -> dict[str, float] | None:
    """The stored seconds of each kernel; None where there are none yet.

    Raises:
        ProfilerError: the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        seconds = {name: json.loads(path.read_text())["reference_s"][name] for name in KERNELS}
        check_reference(seconds)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ProfilerError) as error:
        raise ProfilerError(
            f"{path} holds no calibration reference ({str(error)[:300]}). Delete it to measure a new one."
        ) from error
    return seconds


def store_reference(path: Path, reference_s: Mapping[str, float], about: Mapping[str, object]) -> dict[str, float]:
    """Keep a reference unless another process was faster; the one that stays is returned.

    Raises:
        ProfilerError: the folder cannot be written, or the reference cannot be.
    """
    check_reference(reference_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            json.dump({**about, "reference_s": dict(reference_s)}, file, indent=1)
        os.chmod(file.name, 0o644)  # for every user who shares the folder
        try:
            os.link(file.name, path)  # fails where there is one already
        except OSError:
            if not path.exists():
                os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)
    except OSError as error:
        raise ProfilerError(
            f"The calibration reference cannot be written to {path} ({error}). Set LANA_HOME to a writable folder."
        ) from error
    return read_reference(path) or dict(reference_s)
