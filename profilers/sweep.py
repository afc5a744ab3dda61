"""Many computations on one runtime: measured in fresh processes, written row by row."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profilers import table_file
from profilers.calibration import read_reference, reference_path, store_reference
from profilers.computation import Computation
from profilers.environment import environment, load, processor
from profilers.errors import MeasurementFailed, ProfilerError
from profilers.isolation import Blame, run_job
from profilers.library import known_rows
from profilers.measurement import Measurement
from profilers.registry import create_runtime
from profilers.runtime import Runtime, RuntimeSettings
from profilers.table import LatencyTable
from profilers.table_columns import LABELS, MEASURED, STATIC, Fields, row_fault
from profilers.timing import Protocol, chunks

BELIEVED = 3  # computations that fail alone with one message: others that fail with it are not tried again
Outcome = tuple[Computation, Measurement | str]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a sweep is.

    Attributes:
        done, total: computations, with those that were there before.
        name: of the one measured last.
        seconds_left: an estimate; None before anything is measured.
    """

    done: int
    total: int
    name: str
    seconds_left: float | None


def profile(
    computations: Sequence[Computation],
    *,
    runtime: str,
    settings: RuntimeSettings,
    table: Path | str,
    libraries: Sequence[Path] = (),
    protocol: Protocol | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> LatencyTable:
    """Measure what the table file does not hold yet and append it; the whole table is returned.

    Rows that a table in one of the folders `libraries` holds for this device and setting are copied from it.

    A sweep may be killed and started again: each row is written at once and kept. A computation that the runtime
    rejects, that crashes it or that hangs is tried once more in a process of its own. If it fails there too, its row
    holds the error.

    Raises:
        RuntimeUnavailable: the runtime is not installed.
        TableMismatch: the file holds rows of another device, runtime, version or setting.
        InvalidTable: the file is no latency table, or was changed.
        MeasurementFailed: nothing at all can be measured.
    """
    protocol, path = protocol or Protocol(), Path(table)
    unique = {computation.key: computation for computation in computations}
    header = _header(create_runtime(runtime, settings), unique.values(), protocol, path)
    held = _held(table_file.append(path, header, []))
    if libraries and (missing := unique.keys() - held):
        held = _held(table_file.append(path, header, known_rows(libraries, header, missing)))
    unmeasured = [computation for computation in unique.values() if computation.key not in held]
    report = _reporter(progress, total=len(unique), before=len(unique) - len(unmeasured))
    sweep = _Sweep(runtime=runtime, settings=settings, protocol=protocol, reference_s=header.reference_s)
    for group in chunks(unmeasured, protocol.group):
        for computation, outcome in sweep.measured(group):
            if isinstance(outcome, Measurement):
                keep_samples(path, computation, outcome)
            row = row_fields(computation, outcome)
            if fault := row_fault(row):
                row = row_fields(computation, f"the clock gave what cannot be: {fault}")
            table_file.append(path, header, [row])
            report(computation.name)
    return LatencyTable.read(path)


def _held(rows: Sequence[Fields]) -> set[str]:
    """Keys that need not be measured; what failed is tried again, since it may have found the memory taken."""
    return {row["key"] for row in rows if not row["error"]}


def _header(runtime: Runtime, computations: Any, protocol: Protocol, path: Path) -> table_file.Header:
    """The header of the table that this sweep writes; a missing calibration reference is measured."""
    device, versions = device_of(runtime), runtime.versions()
    exporters = {computation.exporter for computation in computations} - {""}
    if len(exporters) > 1:
        raise ProfilerError(
            f"The files come from different exporters, {', '.join(sorted(exporters))}: one table, one exporter."
        )
    place = reference_path(device, runtime.name, versions, runtime.settings)
    if exporters:
        versions = {**versions, "exporter": exporters.pop()}
    begun = table_file.read_begun(path)
    reference_s = begun.reference_s if begun else read_reference(place)
    if reference_s is None:
        reference_s = store_reference(
            place,
            measure_reference(runtime.name, runtime.settings, protocol),
            {"device": device, "runtime": runtime.name, "versions": versions, "settings": runtime.settings.to_json()},
        )
    return table_file.Header(
        runtime=runtime.name,
        versions=versions,
        settings=runtime.settings,
        device=device,
        reference_s=reference_s,
        protocol=protocol.to_json(),
        environment=environment(),
    )


def device_of(runtime: Runtime) -> str:
    """The processor, and what else the runtime runs on."""
    return "; ".join(filter(None, (processor(), runtime.device())))


def measure_reference(runtime: str, settings: RuntimeSettings, protocol: Protocol) -> dict[str, float]:
    """Seconds of the calibration kernels on this device: the fastest of three processes, kernel by kernel.

    The fastest, since a reference is kept for good and whatever disturbs only ever slows.
    """
    references: list[dict[str, float]] = []
    for process in range(3):
        result = _run([], runtime, settings, protocol, None, process)
        if isinstance(result, Blame):
            raise MeasurementFailed(result.message)
        references.append(result["reference_s"])
    return {name: min(one[name] for one in references) for name in references[0]}


def _run(
    group: Sequence[Computation],
    runtime: str,
    settings: RuntimeSettings,
    protocol: Protocol,
    reference_s: Mapping[str, float] | None,
    process: int,
) -> dict[str, Any] | Blame:
    job = {
        "kind": "sweep",
        "protocol": protocol.to_json(),
        "process": process,
        "reference_s": None if reference_s is None else dict(reference_s),
    }
    return run_job(job, runtime=runtime, settings=settings, computations=group, timeout_s=protocol.timeout_s)


@dataclass(frozen=True, kw_only=True)
class _Sweep:
    """Measures groups of computations; `failed_alone` counts the messages of those that did so in their own process."""

    runtime: str
    settings: RuntimeSettings
    protocol: Protocol
    reference_s: Mapping[str, float]
    failed_alone: Counter[str] = field(default_factory=Counter)

    def measured(self, group: Sequence[Computation], *, alone: bool = False) -> Iterator[Outcome]:
        """Each computation of a group with its samples or its error, as soon as it is sure enough.

        Further processes measure those that are not, and repeat those that other work disturbed. One that fails in a
        group is measured again alone: another one may have taken the memory or broken a GPU's context.
        """
        protocol, measurements = self.protocol, dict[str, Measurement]()
        open_, process = list(group), 0
        while open_:
            try:
                result = _run(open_, self.runtime, self.settings, protocol, self.reference_s, process)
            except MeasurementFailed:
                if process >= protocol.processes:
                    yield from ((computation, measurements[computation.key]) for computation in open_)
                raise
            if isinstance(result, Blame):
                to_blame = open_.pop(result.item)
                yield self._failed(to_blame, result.message, alone=alone or result.hung, believed=math.inf)
                continue
            process += bool(result["rounds"])
            for key, rounds in result["rounds"].items():
                new = Measurement.from_json(rounds)
                measurements[key] = measurements[key] + new if key in measurements else new
            unsure = []
            for computation in open_:
                if computation.key in result["errors"]:
                    yield self._failed(computation, result["errors"][computation.key], alone=alone)
                elif self._sure(measurements.get(computation.key), process):
                    yield computation, measurements[computation.key]
                else:
                    unsure.append(computation)
            open_ = unsure

    def _sure(self, measurement: Measurement | None, process: int) -> bool:
        if process >= self.protocol.most_processes:
            return True
        enough = measurement is not None and measurement.calm_processes >= self.protocol.processes
        return enough and measurement is not None and measurement.relative_interval <= self.protocol.interval

    def _failed(self, computation: Computation, message: str, *, alone: bool, believed: float = BELIEVED) -> Outcome:
        """Its error, once it is sure to be its own; killed processes all report the same, so none is believed."""
        if alone:
            self.failed_alone[message] += 1
        elif self.failed_alone[message] < believed:
            return next(self.measured([computation], alone=True))
        return computation, message


def row_fields(computation: Computation, outcome: Measurement | str) -> dict[str, str]:
    """A row of the table, as text, without its check."""
    labels, columns = dict(computation.labels), dict(computation.columns)
    fields = {"key": computation.key, "name": _line(computation.name)}
    fields.update({name: _line(labels.pop(name, "")) for name in LABELS})
    if isinstance(outcome, Measurement):
        figures = {
            "latency_ms": outcome.latency_ms,
            "p90_ms": outcome.p90_ms,
            "cold_ms": outcome.cold_ms,
            "interval": outcome.relative_interval,
            "rounds": len(outcome.rounds),
            "raw_ms": outcome.raw_ms,
        }
        fields.update({name: _number(figures[name]) for name in MEASURED})
        fields.update({"noisy": str(int(outcome.noisy)), "error": ""})
    else:
        fields.update({**dict.fromkeys((*MEASURED, "noisy"), ""), "error": _line(outcome)[:400]})
    fields.update({name: _number(columns.pop(name, math.nan)) for name in STATIC})
    more = {**labels, **columns}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**fields, "measured": when, "load": load(), "more": json.dumps(more, sort_keys=True) if more else ""}


def _line(text: str) -> str:
    return " ".join(text.split())


def _number(value: float) -> str:
    """Six digits: more than is measured, few enough to read.

    >>> _number(1 / 3), _number(12345678.0), _number(float("nan"))
    ('0.333333', '12345678', '')
    """
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return str(value)
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def samples_path(table: Path) -> Path:
    """The file of a table's raw samples, next to it: a line of JSON per row."""
    return table.with_name(f"{table.name.removesuffix('.csv')}.samples.jsonl")


def keep_samples(table: Path, computation: Computation, measurement: Measurement) -> None:
    line = json.dumps({"key": computation.key, "rounds": measurement.to_json()}, separators=(",", ":"))
    with samples_path(table).open("a") as file:
        file.write(line + "\n")


def _reporter(progress: Callable[[Progress], None] | None, *, total: int, before: int) -> Callable[[str], None]:
    """A function that counts, estimates the time left from this sweep's measurements, and reports."""
    started_s, done = time.monotonic(), before

    def report(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            left = (time.monotonic() - started_s) / (done - before) * (total - done)
            progress(Progress(done=done, total=total, name=name, seconds_left=left))

    return report
