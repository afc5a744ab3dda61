"""Students of one pool for a fleet of devices: tables, selections, measurements where they run, and corrections."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from lana.common.console import figure, make_console, milliseconds
from lana.common.files import write_text
from lana.config.budget import parse_budget
from lana.config.fleet_file import FleetDevice
from lana.delivery import remote_devices as devices
from lana.delivery.archives import archive_unit, run_archive
from lana.delivery.remote_devices import DeviceSummary
from lana.engines.choice import create_engine
from lana.engines.units import Unit, failures, map_units
from lana.errors import BudgetUnreachable, LanaError
from lana.operations.families import parse_operation
from lana.pool.builder import Builder
from lana.pool.stages import Pool
from lana.runs.baseline import Baseline
from lana.runs.context import RunContext
from lana.selection.program import SelectionModel
from profilers import Computation, ProfilerError
from profilers.bundle import MEASUREMENTS, TABLE, format_on_device, write_bundle

ROUNDS = 4  # of selecting and measuring
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FleetRow:
    """A device with its student: `latency_ms` was measured there where `measured`, and is predicted otherwise."""

    device: str
    student: str = ""
    budget_ms: float | None = None
    latency_ms: float | None = None
    measured: bool = False
    accuracy: float | None = None
    verified: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class FleetSummary:
    """The devices of a fleet with their students."""

    teacher_accuracy: float
    devices: tuple[FleetRow, ...]

    @property
    def verified(self) -> bool:
        return all(row.verified for row in self.devices)

    def show(self) -> None:
        """Print one line a device."""
        table = Table("device", "budget ms", "latency ms", "accuracy", "verified", "student", "note")
        for row in self.devices:
            latency = milliseconds(row.latency_ms) + ("" if row.measured or row.latency_ms is None else " predicted")
            verified = "yes" if row.verified else "no"
            table.add_row(
                row.device,
                milliseconds(row.budget_ms),
                latency,
                figure(row.accuracy),
                verified,
                row.student,
                row.note,
            )
        console = make_console()
        console.print(table)
        console.print(f"The teacher's accuracy is {figure(self.teacher_accuracy)}. Students are not fine-tuned.")
        if not self.verified:
            console.print("The same command does again what is not verified; finished measurements are kept.")


@dataclass(frozen=True, kw_only=True, eq=False)
class FleetWork:
    """A fleet at work on a run's pool; files of a device are in RUN/devices/NAME."""

    context: RunContext
    baseline: Baseline
    pool: Pool
    model: SelectionModel

    def folder(self, device: FleetDevice) -> Path:
        return self.context.run.path / "devices" / device.name

    def table(self, device: FleetDevice) -> Path:
        return self.folder(device) / f"{device.name}.csv"

    def select(self, fleet: Sequence[FleetDevice]) -> FleetSummary:
        """Build the tables, then select and measure in rounds until each device has a verified student or failed."""
        notes = self._build_tables([device for device in fleet if not self.table(device).is_file()])
        rows: dict[str, FleetRow] = {}
        open_ = [device for device in fleet if device.name not in notes]
        for _ in range(ROUNDS):
            waiting: list[tuple[FleetDevice, Path]] = []
            for device in open_:
                try:
                    found = self._chosen(device)
                except (BudgetUnreachable, ProfilerError) as error:
                    notes[device.name] = str(error)
                    continue
                rows[device.name] = _row(device, found)
                waiting += [(device, Path(archive)) for archive in found.archives]
            notes = {**notes, **self._measure(waiting)}
            open_ = [device for device, _ in waiting if device.name not in notes]
            if not open_:
                break
        return FleetSummary(
            teacher_accuracy=self.baseline.metric,
            devices=tuple(
                dataclasses.replace(rows.get(d.name, FleetRow(device=d.name)), note=notes.get(d.name, ""))
                for d in fleet
            ),
        )

    def _build_tables(self, fleet: Sequence[FleetDevice]) -> dict[str, str]:
        """The tables of devices, measured there; why not, by name."""
        notes: dict[str, str] = {}
        units: list[tuple[FleetDevice, Unit]] = []
        batch = self.context.recipe.profiling.batch
        with tempfile.TemporaryDirectory() as folder:
            computations: dict[str, list[Computation]] = {}
            for device in fleet:
                try:
                    format, settings = format_on_device(device.runtime), device.settings(batch)
                    path = self.folder(device) / "table.zip"  # kept, so that a repeated command knows its unit
                    if not path.is_file():
                        if format not in computations:
                            computations[format] = self._computations(Path(folder) / format, format)
                        write_bundle(path, computations[format], runtime=device.runtime, settings=settings)
                    units.append((device, _unit(device, path, TABLE)))
                except ProfilerError as error:
                    notes[device.name] = str(error)
        for device, text in self._run("tables", units, notes):
            write_text(self.table(device), text)
            (self.folder(device) / "table.zip").unlink(missing_ok=True)
        return notes

    def _computations(self, folder: Path, format: str) -> list[Computation]:
        """The pool's operations as files, one a structure."""
        builder = Builder(self.context.teacher, batch=self.context.recipe.profiling.batch, folder=folder, format=format)
        for candidate in self.model.candidates:
            builder.candidate(candidate.layer, parse_operation(candidate.operation))
        return list(builder.computations.values())

    def _chosen(self, device: FleetDevice) -> DeviceSummary:
        """The student for a device as far as its measurements go, with the archive that measures more."""
        measured = sorted(self.folder(device).glob("measurements-*.json"))
        opened = devices.open_device(self.context, self.model, self.table(device), 1.0, measured)
        number, unit = parse_budget(device.budget)
        opened = dataclasses.replace(opened, budget_ms=number * opened.teacher_ms if unit == "x" else number)
        return devices.deliver(self.context, self.baseline, self.pool, [opened], f"fleet-{device.name}")

    def _measure(self, archives: Sequence[tuple[FleetDevice, Path]]) -> dict[str, str]:
        """Measure students at their devices, into files that the next selection reads; why not, by name."""
        notes: dict[str, str] = {}
        units = [(device, _unit(device, path, MEASUREMENTS)) for device, path in archives]
        for device, text in self._run("students", units, notes):
            count = len(list(self.folder(device).glob("measurements-*.json")))
            write_text(self.folder(device) / f"measurements-{count}.json", text)
        return notes

    def _run(
        self, stage: str, units: Sequence[tuple[FleetDevice, Unit]], notes: dict[str, str]
    ) -> Iterator[tuple[FleetDevice, str]]:
        """The results of archives, all places at once; what fails goes into `notes` by the device's name."""
        by_name = {unit.name: device for device, unit in units}
        engines = {device.at if device.at.startswith("ray") else "processes" for device, _ in units}
        for engine in sorted(engines):
            of_engine = [u for d, u in units if (d.at if d.at.startswith("ray") else "processes") == engine]
            folder = self.context.run.path / "units" / f"{stage}-{engine.split(':')[0]}"
            workers = len({by_name[unit.name].at for unit in of_engine})
            try:
                made = create_engine(engine, of_engine, workers=workers if engine == "processes" else None)
                for unit, text in map_units(made, run_archive, of_engine, folder, title=f"Measuring {stage}"):
                    yield by_name[unit.name], text
            except LanaError as error:
                failed = failures(folder) or {unit.name: str(error) for unit in of_engine}
                notes.update({by_name[name].name: text for name, text in failed.items() if name in by_name})


def _unit(device: FleetDevice, archive: Path, result: str) -> Unit:
    return archive_unit(archive, device=device.name, at=device.at, python=device.python, result=result)


def _row(device: FleetDevice, found: DeviceSummary) -> FleetRow:
    measured_ms = found.measured_ms.get(device.name)
    return FleetRow(
        device=device.name,
        student=found.student,
        budget_ms=found.budgets_ms[device.name],
        latency_ms=found.predicted_ms[device.name] if measured_ms is None else measured_ms,
        measured=measured_ms is not None,
        accuracy=found.selected_accuracy,
        verified=found.verified,
    )
