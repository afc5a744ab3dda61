"""Students for devices that are not here: solved from their tables, sent out to be measured, verified when read back.

For each device a folder RUN/devices/NAME holds the measurements taken there (`measured_students.csv`) and, per student,
the archive that measures it. One student may have to fit several devices at once: its problem then has one limit each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from lana.common.console import figure, make_console, milliseconds
from lana.common.files import write_json
from lana.delivery.device_measurements import check_same, identity, measured_teacher_ms, read_back, sent_students
from lana.errors import BudgetUnreachable, UserError
from lana.evaluation.metrics import evaluate_module
from lana.exporters.computation import to_computation
from lana.exporters.onnx_export import export_onnx
from lana.exporters.tracing import ExportFailed
from lana.models.selection import Selection
from lana.models.student import assemble
from lana.models.student_files import save_student
from lana.pool.candidates import Candidate, with_latencies
from lana.pool.stages import Pool
from lana.runs.baseline import PROCESSES, Baseline
from lana.runs.context import RunContext
from lana.selection.acceptance import accepted, target_ms
from lana.selection.latency_model import plain_sum_ms, total
from lana.selection.measurement import assembled
from lana.selection.program import SelectionModel, min_distance
from lana.selection.sampling import spread
from profilers import LatencyTable, MissingRow
from profilers.bundle import format_on_device, read_measurements, write_bundle
from solvers import SelectionProblem, explain, solve, solve_diverse

CALIBRATION_STUDENTS = 6  # sent out in addition to the chosen ones, spread over all latencies, to correct predictions


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device by its table, with the budget there and what was measured on it so far."""

    name: str
    table: LatencyTable
    budget_ms: float
    folder: Path
    model: SelectionModel

    @property
    def teacher_ms(self) -> float:
        return self.model.teacher_ms

    @property
    def measured(self) -> bool:
        return bool(self.model.latencies)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A selection for devices: whether all of them measured it within budget, and the archives to send otherwise."""

    selection: Selection
    verified: bool
    archives: tuple[Path, ...]


def device_name(table: Path) -> str:
    """A device is called as the file of its table."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", table.stem)


def check_devices(tables: Sequence[Path], measurements: Sequence[Path]) -> None:
    """Every device has a name of its own, and all that was measured belongs to one of them.

    Raises:
        UserError: see above.
    """
    tables_of: dict[str, Path] = {}
    for table in tables:
        other = tables_of.setdefault(device_name(table), table)
        if other != table:
            raise UserError(
                f"{other} and {table} both name the device {device_name(table)!r}. Rename each file after its device."
            )
    for path in measurements:
        label = read_measurements(path).label
        if label not in tables_of:
            raise UserError(
                f"{path} was measured for the device {label!r}, the tables given are of {', '.join(tables_of)}. "
                f"Give the table {label}.csv too, or leave the measurements out."
            )


def open_device(
    context: RunContext, model: SelectionModel, table: Path, budget_ms: float, measurements: Sequence[Path] = ()
) -> Device:
    """The run's model with the latencies of a device.

    Its log takes the `measurements` that came from the device.

    Raises:
        UserError: the table lacks a layer's own operation, the measurements are of another run, or the run has a device
            of the same name that is another.
        ProfilerError: the table's runtime is not known.
    """
    read, name = LatencyTable.read(table), device_name(table)
    format_on_device(read.header.runtime)
    folder = context.run.path / "devices" / name
    check_same(read, folder)
    log = read_back(folder, [path for path in measurements if read_measurements(path).label == name], read)
    candidates = candidates_on(read, model.candidates)
    kept = [candidate for candidate in candidates if candidate.kept]
    teacher_ms = plain_sum_ms(total([candidate.columns for candidate in kept if candidate.operation == "teacher"]))
    if log.rows:
        teacher_ms = measured_teacher_ms(folder)
    ours = dataclasses.replace(model, candidates=kept, teacher_ms=teacher_ms, latencies=tuple(log.rows))
    return Device(name=name, table=read, budget_ms=budget_ms, folder=folder, model=ours)


def candidates_on(table: LatencyTable, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with a device's milliseconds; one that its table has not, or could not run, is not kept.

    Nor is one in int8: the files that go to a device are in fp32.

    Raises:
        UserError: it has no figure for a layer's own operation.
    """
    on_device = []
    for candidate in candidates:
        try:
            table.lookup(candidate.key, name=candidate.operation, labels={"layer": candidate.layer.name})
        except MissingRow as error:
            if candidate.operation == "teacher":
                raise UserError(
                    f"{error} It was made for another network or batch: "
                    "make it with `lana profile MODEL`, or with --bundle for a device without lana."
                ) from error
            candidate = dataclasses.replace(candidate, kept=False, reason="not in the device's table")
        if candidate.precision != "fp32":
            candidate = dataclasses.replace(candidate, kept=False, reason="files for other devices are in fp32")
        on_device.append(candidate)
    return with_latencies(on_device, table)


def joint_problem(devices: Sequence[Device]) -> tuple[SelectionProblem, Sequence[Candidate]]:
    """Least loss within every device's budget, a cost for each, over choices that all of them can run; and these."""
    common = set.intersection(*({candidate.pair for candidate in device.model.candidates} for device in devices))
    models = [
        dataclasses.replace(device.model, candidates=[one for one in device.model.candidates if one.pair in common])
        for device in devices
    ]
    problems = [
        model.problem(target_ms(model, device.budget_ms) if device.measured else device.budget_ms)
        for model, device in zip(models, devices, strict=True)
    ]
    names = [device.name for device in devices]
    joint = dataclasses.replace(
        problems[0],
        costs={name: problem.costs["latency_ms"] for name, problem in zip(names, problems, strict=True)},
        limits={name: problem.limits["latency_ms"] for name, problem in zip(names, problems, strict=True)},
    )
    return joint, models[0].candidates


def choose(context: RunContext, pool: Pool, devices: Sequence[Device]) -> Chosen:
    """The best selection that every device measured within its budget, or the best by prediction, to be measured.

    Raises:
        BudgetUnreachable: no selection is predicted within all budgets; the message names those that contradict each
        other.
    """
    first, *others = [[one.selection for one in accepted(d.model, d.budget_ms) if not one.disturbed] for d in devices]
    if common := [selection for selection in first if all(selection in those for those in others)]:
        return Chosen(selection=common[0], verified=True, archives=())
    problem, candidates = joint_problem(devices)
    if not solve(problem).found:
        message = f"No selection fits. {explain(problem)} Raise a budget, or offer faster operations."
        raise BudgetUnreachable(message, fastest_ms=None)
    count, distance = context.recipe.selecting.proposals, min_distance(problem.layers)
    solutions = solve_diverse(problem, count=count, minimum_distance=distance)
    selections = [Selection(candidates[i].pair for i in solution.chosen) for solution in solutions]
    archives = tuple(_send(context, pool, device, selections) for device in devices)
    return Chosen(selection=selections[0], verified=False, archives=archives)


def _send(context: RunContext, pool: Pool, device: Device, selections: Sequence[Selection]) -> Path:
    """An archive that measures students on the device, paired with the teacher."""
    to_measure, format = list(selections), format_on_device(device.table.header.runtime)
    if not device.measured:
        others = spread(device.model, np.linspace(0.05, 0.95, CALIBRATION_STUDENTS).tolist())
        to_measure += [selection for selection in others if selection not in to_measure]
    sent = sent_students(device.folder)
    example = context.teacher.example(context.recipe.profiling.batch)
    with tempfile.TemporaryDirectory() as folder:
        networks = [to_computation(context.teacher.module, example, Path(folder), name="teacher", format=format)]
        for selection in to_measure:
            name = next((n for n, s in sent.items() if s == selection), f"student {len(sent)}")
            sent[name] = selection
            student = assemble(context.teacher.module, pool.layers, selection, pool.operations)
            networks.append(to_computation(student, example, Path(folder), name=name, format=format))
        # Known before there is an archive that could come back.
        write_json(device.folder / "device.json", identity(device.table))
        write_json(device.folder / "sent.json", {name: dict(selection) for name, selection in sent.items()})
        header = device.table.header
        return write_bundle(
            device.folder / "measure.zip",
            networks,
            runtime=header.runtime,
            settings=header.settings,
            kind="networks",
            processes=PROCESSES,
            label=device.name,
        )


@dataclass(frozen=True, kw_only=True)
class DeviceSummary:
    """A student for devices that are not here; milliseconds by device, measured ones where they were read back."""

    student: str
    verified: bool
    teacher_accuracy: float
    selected_accuracy: float
    expected_loss: float
    budgets_ms: dict[str, float]
    predicted_ms: dict[str, float]
    measured_ms: dict[str, float]
    measured_ms_upper95: dict[str, float]
    archives: list[str]
    selection: dict[str, str]

    def show(self) -> None:
        """Print the student's figures by device, and what to do next."""
        table = Table(
            "device", "budget ms", "predicted ms", "measured ms", "upper 95%", title=f"Student {self.student}"
        )
        for name, budget_ms in self.budgets_ms.items():
            measured = [found.get(name) for found in (self.measured_ms, self.measured_ms_upper95)]
            table.add_row(name, *map(milliseconds, (budget_ms, self.predicted_ms[name], *measured)))
        console = make_console()
        console.print(table)
        console.print(
            f"Metric {figure(self.selected_accuracy)}, the teacher's {figure(self.teacher_accuracy)}; not fine-tuned."
        )
        if self.verified:
            console.print("Within the budget of every device, measured there.")
            return
        console.print("Not verified. Measure on the device, then give its measurements.json with --measured:")
        for archive in self.archives:
            console.print(f"  unzip {shlex.quote(str(archive))} and run python run.py there", soft_wrap=True)


def deliver(context: RunContext, baseline: Baseline, pool: Pool, devices: Sequence[Device], name: str) -> DeviceSummary:
    """Choose for devices, save the student, export it, and summarise its figures."""
    first, chosen = devices[0].model, choose(context, pool, devices)
    folder, selection = context.run.student(name), chosen.selection
    student = assembled(context, pool, selection)
    save_student(student, folder, context.teacher, pool.layers, selection)
    example = context.teacher.example(context.recipe.profiling.batch)
    formats = {format_on_device(device.table.header.runtime) for device in devices}
    for format in formats:
        to_computation(student, example, folder, name=name, format=format, stem="model")
    if "onnx" not in formats:
        with contextlib.suppress(ExportFailed):
            export_onnx(student, example, folder / "model.onnx")
    measured = {device.name: device.model.measured.get(selection) for device in devices}
    known = {d.name: (m, d.teacher_ms) for d in devices if (m := measured[d.name]) is not None}
    summary = DeviceSummary(
        student=name,
        verified=chosen.verified,
        teacher_accuracy=baseline.metric,
        selected_accuracy=evaluate_module(
            student, context.data.test, context.task, device=context.recipe.compute.device
        ).metric,
        expected_loss=first.expected_loss(selection, devices[0].budget_ms),
        budgets_ms={device.name: device.budget_ms for device in devices},
        predicted_ms={device.name: device.model.predicted_ms(selection) for device in devices},
        measured_ms={name: m.ratio * teacher_ms for name, (m, teacher_ms) in known.items()},
        measured_ms_upper95={name: m.ratio_upper95 * teacher_ms for name, (m, teacher_ms) in known.items()},
        archives=[str(path) for path in chosen.archives],
        selection=selection.in_full(first.layers),
    )
    write_json(folder / "devices.json", dataclasses.asdict(summary))
    return summary
