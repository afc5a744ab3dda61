"""How far the units of a run are, as any process sees it: done, running and failed, by host, and the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from lana.common.console import make_console
from lana.common.files import read_json
from lana.common.progress import counted, duration
from lana.config.folders import run_folder
from lana.errors import LanaError
from lana.runs.run import Run

SILENT_S = 60.0  # a unit that has not reported for longer is not taken to run: its worker was killed


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """The units of a stage; `hosts` counts those running on each, `failed` holds their errors by name."""

    stage: str
    units: int
    done: int
    running: dict[str, float]
    failed: dict[str, str]
    hosts: dict[str, int]
    seconds_left: float | None

    @classmethod
    def read(cls, folder: Path) -> StageStatus:
        plan: dict[str, Any] = read_json(folder / "plan.json", {})
        done, running, failed = (_records(folder, state) for state in ("done", "running", "failed"))
        took_s = sum(record["seconds"] for record in done.values())
        planned_s = sum(plan[name]["seconds"] for name in done if name in plan)
        pace = took_s / planned_s if planned_s else 1.0
        open_s = {name: pace * fields["seconds"] for name, fields in plan.items() if name not in {**done, **failed}}
        left_s = sum(s * (1 - running[name]["share"] if name in running else 1) for name, s in open_s.items())
        return cls(
            stage=folder.name,
            units=len(plan),
            done=sum(name in plan for name in done),
            running={name: record["share"] for name, record in running.items()},
            failed={name: record["error"].strip().splitlines()[-1] for name, record in failed.items()},
            hosts=dict(Counter(record["host"] for record in running.values())),
            seconds_left=left_s / len(running) if running else None,
        )


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run's finished stages with their seconds, and the stages whose units are not all done."""

    run: str
    finished: dict[str, float]
    stages: list[StageStatus]

    def show(self) -> None:
        console = make_console()
        for stage, seconds in self.finished.items():
            console.print(f"{stage}: finished in {duration(seconds)}")
        if not self.stages:
            console.print("No stage has unfinished units.")
            return
        table = Table("stage", "units", "done", "running", "failed", "waiting", "time left", "hosts")
        for one in self.stages:
            hosts = ", ".join(f"{host}: {count}" for host, count in one.hosts.items()) or "none"
            waiting = one.units - one.done - len(one.running) - len(one.failed)
            counts = [str(count) for count in (one.units, one.done, len(one.running), len(one.failed), waiting)]
            table.add_row(one.stage, *counts, duration(one.seconds_left), hosts)
        console.print(table)
        for one in self.stages:
            for name, share in one.running.items():
                console.print(f"{name}: running, {share:.0%} done")
            for name, error in one.failed.items():
                console.print(f"{name}: failed: {error}", soft_wrap=True)
            if not one.running:
                console.print(f"Nothing does the units of {one.stage} now. The command that began them resumes them.")
        failed = sum(len(one.failed) for one in self.stages)
        if failed:
            console.print(f"{counted(failed, 'unit')} failed. The same command tries them again.")


def run_status(path: Path | str) -> RunStatus:
    """The state of a run, also while another process works in it: nothing is locked or written.

    Raises:
        UserError: it is not a run.
    """
    folder = run_folder(path)
    stages = [StageStatus.read(plan.parent) for plan in sorted((folder / "units").glob("*/plan.json"))]
    return RunStatus(run=str(path), finished=Run(folder).seconds(), stages=stages)


def _records(folder: Path, state: str) -> dict[str, Mapping[str, Any]]:
    """The records of units in a state; one that is removed or silent meanwhile is left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob(f"*.{state}")):
        try:
            if state != "running" or time.time() - path.stat().st_mtime < SILENT_S:
                found[path.stem] = read_json(path)
        except (OSError, LanaError):
            continue
    return found
