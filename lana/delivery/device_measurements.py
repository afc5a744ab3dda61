"""Measurements that came back from a device: checked, then taken into the device's log, all or none."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lana.common.files import read_json, write_json
from lana.errors import UserError
from lana.models.selection import Selection
from lana.selection.measurement_log import LatencyLog
from profilers import LatencyTable
from profilers.bundle import NetworkMeasurements, read_measurements
from profilers.table_columns import is_positive


def identity(table: LatencyTable) -> dict[str, Any]:
    """The properties that a device's name stands for: its measurements hold for these only."""
    return {name: value for name, value in table.header.to_json().items() if name in ("device", "runtime", "settings")}


def check_same(table: LatencyTable, folder: Path) -> None:
    """Refuse a table of another device than the one that a run knows by this name.

    Raises:
        UserError: see above.
    """
    stored, now = folder / "device.json", identity(table)
    before = read_json(stored, now)
    changed = [f"{name}: {before.get(name)} there, {now[name]} now" for name in now if before.get(name) != now[name]]
    if changed:
        raise UserError(
            f"{table.source} is of another device than the {folder.name!r} that students of this run were sent to "
            f"({'; '.join(changed)}). Rename the file after its device."
        )


def sent_students(folder: Path) -> dict[str, Selection]:
    """The students that were sent to a device, by their names in its archives."""
    students: dict[str, dict[str, str]] = read_json(folder / "sent.json", {})
    return {name: Selection(operations) for name, operations in students.items()}


def read_back(folder: Path, paths: Sequence[Path], table: LatencyTable) -> LatencyLog:
    """The device's log with these measurements in it, each file once.

    A file is in the log under its digest. The log is written last and whole: killed before, the same command begins
    anew; killed after, it knows the file again.

    Raises:
        UserError: a file is of another device, runtime or run. Nothing of any file is written then.
    """
    log = LatencyLog.read(folder / "measured_students.csv")
    before: list[str] = read_json(folder / "read.json", [])  # of runs begun before the log held the digests
    students = sent_students(folder)
    fresh: dict[str, NetworkMeasurements] = {}
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in before and not log.holds(_entry(digest)):
            fresh[digest] = _checked(path, folder, table, students)
    for digest, back in fresh.items():
        if not (folder / "teacher.json").is_file():  # frozen once, as the run's own
            reference = [ms for comparison in back.networks.values() for ms in comparison.reference_ms]
            write_json(folder / "teacher.json", {"teacher_ms": statistics.median(reference), "device": back.device})
        log.search = _entry(digest)
        log.add([students[name] for name in back.networks], list(back.networks.values()))
    return log


def _entry(digest: str) -> str:
    return f"read {digest}"


def _checked(path: Path, folder: Path, table: LatencyTable, students: dict[str, Selection]) -> NetworkMeasurements:
    back = read_measurements(path)
    there = {"device": back.device, "runtime": back.runtime, "settings": back.settings.to_json()}
    other = [
        f"{name}: {there[name]} there, {own} in {table.source}"
        for name, own in identity(table).items()
        if there[name] != own
    ]
    if other:
        raise UserError(
            f"{path} was measured otherwise than the table of {folder.name} ({'; '.join(other)}). "
            "Run the archive's run.py on that device, with the runtime and threads of the table."
        )
    unknown = [name for name in back.networks if name not in students]
    if unknown or not back.networks:
        what = f"measurements of {unknown[0][:80]!r}, which" if unknown else "no network that"
        raise UserError(
            f"{path} holds {what} this run {'never ' if unknown else ''}sent to {folder.name}. "
            "Give the measurements.json of an archive under this run's devices/."
        )
    return back


def measured_teacher_ms(folder: Path) -> float:
    """The teacher's milliseconds on a device that students were measured on.

    Raises:
        UserError: the file of it is missing, or its figure cannot be.
    """
    path = folder / "teacher.json"
    found = read_json(path)
    teacher_ms = found.get("teacher_ms") if isinstance(found, dict) else None
    if not is_positive(teacher_ms):
        raise UserError(
            f"{path} gives the teacher {str(teacher_ms)[:40]} ms; expected a number above 0. "
            f"Remove {folder} and measure its students again."
        )
    return float(teacher_ms)
