"""Is a verified budget kept that was selected beside busy processes? Measured again on the quiet machine.

    python benchmarks/busy_budgets.py DIGITS-RUN RESNET56-RUN --folder runs/busy   # --busy 0 --busy 1 --busy 2 --busy 4

Each RUN is a finished one; a copy of it for each number of busy processes is selected from, so that no log holds the
measurements of another. lana and the busy processes share one processor (`--processor`); with `--apart` the busy ones
have another. Goals: of the selections called verified at least 95% hold; beside one busy process apart at least 8 of 10
are verified, within three times the quiet time. After an interruption, the same command resumes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd
from budgets import BUDGETS, measured_again
from neighbour import beside
from rich.console import Console
from rich.table import Table

from lana import pipeline
from lana.common.files import write_json
from lana.delivery.summary import Summary
from lana.errors import BudgetUnreachable

BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
import numpy as np
a = np.random.default_rng(0).standard_normal((600, 600))
while True:
    a @ a
"""
HOLDS = 1.0  # of the budget: the median of the quiet measurement


def copied(run: Path, folder: Path, busy: int) -> Path:
    """The run without its students, for selections beside so many busy processes."""
    copy = folder / f"{run.name}-busy-{busy}"
    if not copy.exists():
        beside_it = copy.with_suffix(".part")
        shutil.rmtree(beside_it, ignore_errors=True)
        shutil.copytree(run, beside_it, ignore=shutil.ignore_patterns("students", "devices", ".lock"))
        beside_it.rename(copy)
    return copy


def select_beside(copy: Path, busy: int, ratios: Sequence[float], processor: int) -> None:
    """The students that lack, each selected while the busy processes run; its seconds lie beside its summary."""
    for ratio in ratios:
        name, begun_s = f"promise-{ratio:g}x", time.monotonic()
        folder = copy / "students" / name
        if (folder / "busy.json").is_file():
            continue
        with contextlib.ExitStack() as stack:
            for _ in range(busy):
                stack.enter_context(beside(BUSY, str(processor)))
            try:
                pipeline.select(copy, f"{ratio:g}x", name=name, quiet=True)
            except BudgetUnreachable as error:
                print(f"{copy.name} {ratio:g}x: {error}", flush=True)
                continue
        write_json(folder / "busy.json", {"seconds": round(time.monotonic() - begun_s, 1)})
        print(f"{copy.name} {ratio:g}x: {time.monotonic() - begun_s:.0f} s", flush=True)


def figures(copy: Path, busy: int, processes: int) -> pd.DataFrame:
    """The promise, and the measurement of the quiet machine; kept beside the students."""
    path = copy / "busy_budgets.csv"
    delivered = sorted((copy / "students").glob("promise-*/busy.json"))
    if path.is_file() and len(found := pd.read_csv(path)) == len(delivered):
        return found
    rows = []
    for row in measured_again(copy, processes):
        folder = copy / "students" / row["student"]
        summary = Summary.read(folder / "summary.json")
        seconds = pd.read_json(folder / "busy.json", typ="series")["seconds"]
        rows.append({**row, "busy": busy, "verified": summary.verified, "seconds": seconds,
                     "promised": (summary.measured_ms_upper95 or 0.0) / summary.teacher_ms})  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.to_csv(path, index=False)
    return frame


def show(frame: pd.DataFrame) -> None:
    table = Table("run", "busy", "selected", "verified", "of these hold", "largest excess", "used", "seconds")
    for run, busy in frame[["run", "busy"]].drop_duplicates().itertuples(index=False):
        rows = frame[(frame["run"] == run) & (frame["busy"] == busy)]
        verified = rows[rows["verified"]]
        holds = verified["ratio"] <= HOLDS * verified["budget"]
        excess = (verified["ratio"] / verified["budget"] - 1).max() if len(verified) else float("nan")
        used = statistics.median(rows["used"])
        seconds = statistics.median(rows["seconds"])
        table.add_row(str(run), str(busy), str(len(rows)), str(len(verified)), f"{holds.sum()} of {len(verified)}",
                      f"{excess:+.1%}", f"{used:.1%}", f"{seconds:.0f}")  # fmt: skip
    Console(width=120).print(table)
    beside_busy = frame[(frame["busy"] > 0) & frame["verified"]]
    held = int((beside_busy["ratio"] <= HOLDS * beside_busy["budget"]).sum())
    print(f"verified beside busy processes: {len(beside_busy)}; of these hold: {held}")


@click.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--busy", multiple=True, type=click.IntRange(min=0), default=(0, 1, 2, 4), help="Busy processes.")
@click.option("--budget", multiple=True, type=float, help="Of the teacher's latency.  [default: ten from 0.25 to 0.9]")
@click.option("--processor", default=0, help="That all share.")
@click.option("--apart", is_flag=True, help="Leave lana all processors; the busy processes share one.")
@click.option("--processes", default=10, help="Fresh processes of the quiet measurement.")
def main(
    runs: tuple[Path, ...], folder: Path, busy: tuple[int, ...], budget: tuple[float, ...], processor: int,
    apart: bool, processes: int,
) -> None:  # fmt: skip
    usual = os.sched_getaffinity(0)
    copies = [(copied(run, folder, count), count) for run in runs for count in busy]
    for copy, count in copies:
        os.sched_setaffinity(0, usual if apart else {processor})
        select_beside(copy, count, budget or BUDGETS, processor)
    os.sched_setaffinity(0, usual)
    show(pd.concat([figures(copy, count, processes) for copy, count in copies]))


if __name__ == "__main__":
    main()
