"""Many computations × one runtime → rows of a table; isolated, resumable, with progress."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import calibration
from .computation import Computation
from .errors import MeasurementFailed
from .isolation import run_worker
from .measurement import Measurement
from .runtime import RuntimeSettings, create_runtime
from .table import LatencyTable, Row
from .timing import Protocol

BATCH = 16  # computations a process: a new process costs half a second, and a crash costs the batch


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a sweep is."""

    done: int
    total: int
    name: str
    seconds_left: float | None


def profile(
    computations: Sequence[Computation],
    *,
    runtime: str,
    settings: RuntimeSettings,
    table: Path,
    protocol: Protocol | None = None,
    progress: Callable[[Progress], None] = lambda state: None,
) -> LatencyTable:
    """Measure what the table file does not hold yet, appending rows while measuring.

    A computation that cannot be built or run becomes a row with its `error`. The raw samples go beside the table,
    into a file of the same name that ends in .samples.jsonl.

    Raises:
        InvalidTable: the file is not a table, or was measured with other settings.
    """
    about = {
        "runtime": runtime,
        "settings": json.loads(json.dumps(asdict(settings))),
        "versions": create_runtime(runtime, settings).versions(),
        "device": calibration.device_name(),
    }
    rows = LatencyTable.open(table, about)
    waiting = [computation for computation in computations if computation.key not in rows]
    total, start_s = len(waiting), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kernels = calibration.kernels(Path(folder))
        for first in range(0, total, BATCH):
            batch = waiting[first : first + BATCH]
            for row, raw in _measure(kernels, batch, runtime, settings, protocol or Protocol()):
                rows.append(table, row)
                with table.with_suffix(".samples.jsonl").open("a") as file:
                    file.write(json.dumps({"key": row.key, **raw}) + "\n")
            done = first + len(batch)
            left_s = (time.monotonic() - start_s) / done * (total - done)
            progress(Progress(done=done, total=total, name=batch[-1].name, seconds_left=left_s))
    return rows


def _measure(
    kernels: Sequence[Computation],
    batch: Sequence[Computation],
    runtime: str,
    settings: RuntimeSettings,
    protocol: Protocol,
) -> list[tuple[Row, dict[str, Any]]]:
    outcome = run_worker([*kernels, *batch], runtime=runtime, settings=settings, protocol=protocol)
    broken = [outcome.errors[index] for index in range(len(kernels)) if index in outcome.errors]
    if broken:
        raise MeasurementFailed(f"{runtime} cannot run the calibration kernels: {broken[0]}")
    sentinel = [outcome.seconds[index] for index in range(len(kernels))]
    reference = calibration.reference_of_device(runtime, settings, sentinel) or {}
    index_by_round = calibration.device_index(sentinel, reference)
    made = []
    for index, computation in enumerate(batch, start=len(kernels)):
        if index in outcome.errors:
            made.append((_row(computation, None, outcome.errors[index]), {"error": outcome.errors[index]}))
            continue
        seconds = outcome.seconds[index]
        measurement = Measurement(raw_s=tuple(seconds), device_index=tuple(index_by_round))
        raw = {"raw_us": [round(s * 1e6, 2) for s in seconds], "device_index": [round(i, 4) for i in index_by_round]}
        made.append((_row(computation, measurement, ""), raw))
    return made


def _row(computation: Computation, measurement: Measurement | None, error: str) -> Row:
    labels, columns = computation.labels, computation.columns
    return Row(
        key=computation.key,
        operation=labels.get("operation", computation.name),
        family=labels.get("family", ""),
        layer=labels.get("layer", ""),
        input_shape=labels.get("input_shape", ""),
        output_shape=labels.get("output_shape", ""),
        latency_ms=float(f"{measurement.latency_ms:.6g}") if measurement else float("nan"),
        p90_ms=measurement.p90_ms if measurement else float("nan"),
        half_width=measurement.half_width if measurement else float("nan"),
        rounds=len(measurement.raw_s) if measurement else 0,
        noisy=measurement.noisy if measurement else False,
        parameters=columns.get("parameters", float("nan")),
        macs=columns.get("macs", float("nan")),
        operators=columns.get("operators", float("nan")),
        error=error.replace("\n", " "),
    )
