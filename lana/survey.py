"""The free choices first: a network as it is, on every runtime of this machine, in each precision and thread count."""

from __future__ import annotations

import dataclasses
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lana.common.console import figure, make_console, milliseconds
from lana.common.progress import Progress
from lana.data.split import Data, calibration_inputs
from lana.errors import LanaError
from lana.evaluation.examples import load_examples
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Task
from lana.exporters.computation import to_computation
from lana.models.teacher import Teacher
from lana.quantization.int8_files import FileNetwork
from lana.quantization.scheme import CALIBRATION_IMAGES, INT8_RUNTIMES, Scheme, scheme_here
from profilers import Computation, ProfilerError, RuntimeSettings, compare, runtime_statuses
from profilers.environment import processor_flags
from profilers.registry import find_runtime

ROUNDS = 3  # visits of every setup, each in a fresh process
SECONDS = 0.5  # of one visit
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
BASELINE = ("onnxruntime-cpu", "fp32", 1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to run the network.

    Attributes:
        ratio: its latency over that of ONNX Runtime at fp32 on one thread, the median over rounds.
        ratio_range: the least and the largest of a round.
        metric: on the test split; None without data.
        front: no other row is both faster and as accurate.
        error: why it does not run; the figures are None then.
    """

    runtime: str
    precision: str
    threads: int
    latency_ms: float | None = None
    ratio: float | None = None
    ratio_range: tuple[float, float] | None = None
    metric: float | None = None
    megabytes: float | None = None
    front: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All rows, fastest first, and the int8 scheme of this processor."""

    model: str
    metric_name: str
    scheme: str
    rows: tuple[Row, ...]

    def show(self) -> None:
        """Print one table, the front marked, and the next command."""
        from rich.table import Table

        table = Table("", "runtime", "precision", "threads", "latency", "ratio", self.metric_name, "MB")
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
            table.add_row(
                "*" if row.front else "",
                row.runtime,
                row.precision,
                str(row.threads),
                row.error[:40] or milliseconds(row.latency_ms or 0.0),
                ratio,
                "" if row.metric is None else figure(row.metric),
                "" if row.megabytes is None else f"{row.megabytes:.2f}",
            )
        console = make_console()
        console.print(table)
        console.print("* no other row is both faster and as accurate. Ratios are to ONNX Runtime, fp32, one thread.")
        best = next((row for row in self.rows if row.front and row.threads == 1), None)
        if best is not None:
            console.print(f"Next: lana compress {self.model} --data DATA --budget 0.5x --runtime {best.runtime}")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A file on a runtime with settings."""

    runtime: str
    precision: str
    settings: RuntimeSettings
    computation: Computation


def survey(network: Teacher, task: Task, data: str | None = None, *, threads: Sequence[int] = ()) -> Survey:
    """Measure a network as it is in every setup of this machine; int8 and accuracy need `data`.

    Setups are visited in shuffled rounds, each visit in a fresh process; a ratio is to the baseline of the same round.

    Raises:
        UserError: unknown data, or too few images to calibrate on.
        ExportFailed, QuantizationFailed: the network cannot be written.
    """
    counts = tuple(threads) or tuple(sorted({1, os.cpu_count() or 1}))
    loaded = None
    if data is not None:
        task, loaded = load_examples(data, network, task)
    scheme = scheme_here()
    with tempfile.TemporaryDirectory() as name:
        files = _files(network, Path(name), loaded, scheme)
        setups = [setup for count in counts for setup in _setups(files, count)]
        rows = _measured(setups, _metrics(network, files, loaded, task))
    rows.sort(key=lambda row: (row.latency_ms is None, row.latency_ms))
    marked = tuple(dataclasses.replace(row, front=_on_front(row, rows)) for row in rows)
    return Survey(model=network.reference, metric_name=task.metric_name, scheme=str(scheme), rows=marked)


def _files(network: Teacher, folder: Path, data: Data | None, scheme: Scheme) -> dict[tuple[str, str], Computation]:
    """(format, precision) → the file."""
    files = {
        (format, "fp32"): to_computation(network.module, network.example(), folder, name="network", format=format)
        for format in ("onnx", "torch_export")
    }
    if data is not None:
        from lana.quantization.onnx_quantizer import quantize_onnx

        images = calibration_inputs(data.train.subset(CALIBRATION_IMAGES), 1)
        plain = files["onnx", "fp32"]
        path = quantize_onnx(plain.file, folder / "int8.onnx", images, scheme)
        files["onnx", "int8"] = dataclasses.replace(plain, key=f"{plain.key}int8", file=path)
    return files


def _setups(files: dict[tuple[str, str], Computation], threads: int) -> Iterator[Setup]:
    for status in runtime_statuses():
        kind = find_runtime(status.name)[0]
        if not status.available or status.name.endswith("-compiled"):
            continue
        computing = ["fp32", *(["bf16"] if status.name == "openvino" and BF16_FLAGS & processor_flags() else [])]
        for (format, precision), computation in files.items():
            if format != kind.format or (precision == "int8" and status.name not in INT8_RUNTIMES):
                continue
            for float_type in computing if precision == "fp32" else ["fp32"]:
                yield Setup(
                    runtime=status.name,
                    precision=float_type if precision == "fp32" else precision,
                    settings=RuntimeSettings(threads=threads, precision=float_type),
                    computation=computation,
                )


def _metrics(
    network: Teacher, files: dict[tuple[str, str], Computation], data: Data | None, task: Task
) -> dict[str, float]:
    """Precision → the metric on the test split: of PyTorch for floats, of the file on ONNX Runtime for int8."""
    if data is None:
        return {}
    metrics = {"fp32": evaluate_module(network.module, data.test, task).metric}
    if ("onnx", "int8") in files:
        with torch.no_grad():
            like = network.module(network.example())
        metrics["int8"] = evaluate_module(FileNetwork(files["onnx", "int8"].file, like), data.test, task).metric
    return metrics


def _measured(setups: Sequence[Setup], metrics: dict[str, float]) -> list[Row]:
    """Every setup, visited once a round in shuffled order."""
    visits_ms: dict[int, list[float]] = {index: [] for index in range(len(setups))}
    errors: dict[int, str] = {}
    with Progress(f"Measuring {len(setups)} setups", ROUNDS * len(setups)) as progress:
        for turn in range(ROUNDS):
            order = list(visits_ms)
            random.Random(turn).shuffle(order)
            for index in order:
                progress.update(turn * len(setups) + order.index(index), setups[index].runtime)
                if index not in errors:
                    try:
                        visits_ms[index].append(_visit_ms(setups[index]))
                    except (ProfilerError, LanaError) as error:
                        errors[index] = str(error)
    baseline = next((i for i, one in enumerate(setups) if _identity(one) == BASELINE and i not in errors), None)
    reference_ms = visits_ms[baseline] if baseline is not None else []
    return [
        _row(setup, visits_ms[index], reference_ms, errors.get(index, ""), metrics)
        for index, setup in enumerate(setups)
    ]


def _identity(setup: Setup) -> tuple[str, str, int]:
    return setup.runtime, setup.precision, setup.settings.threads


def _visit_ms(setup: Setup) -> float:
    found = compare(
        setup.computation,
        [setup.computation],
        runtime=setup.runtime,
        settings=setup.settings,
        processes=1,
        seconds_per_process=SECONDS,
    )
    return found[0].reference_ms[0]


def _row(
    setup: Setup, visits_ms: Sequence[float], reference_ms: Sequence[float], error: str, metrics: dict[str, float]
) -> Row:
    runtime, precision, threads = _identity(setup)
    row = Row(runtime=runtime, precision=precision, threads=threads, error=error)
    if error:
        return row
    ratios = [own / reference for own, reference in zip(visits_ms, reference_ms, strict=False)]
    return dataclasses.replace(
        row,
        latency_ms=statistics.median(visits_ms),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_range=(min(ratios), max(ratios)) if ratios else None,
        metric=metrics.get(precision),  # bf16 computes otherwise: it is left open
        megabytes=setup.computation.file.stat().st_size / 1e6,
    )


def _on_front(row: Row, rows: Sequence[Row]) -> bool:
    """A row is dominated by one with no more threads that is faster and no less accurate."""
    if row.latency_ms is None:
        return False
    return not any(
        other.latency_ms is not None
        and other.latency_ms < row.latency_ms
        and other.threads <= row.threads
        and (other.metric if other.metric is not None else 0.0) >= (row.metric if row.metric is not None else 0.0)
        for other in rows
    )
