"""Is the budget kept? Ten students a run, measured again later in fresh processes, paired with their teacher.

    python benchmarks/budgets.py RUN [RUN …] --out benchmarks/results/budgets.csv

Each RUN is a finished one (`lana compress … --out RUN`); students that it has for these budgets are taken as they are.
Goals: the upper 95% bound within the budget in at least 19 of 20, none over by more than 3%; at least 95% of the budget
used wherever the frontier has a point between 95% and 99% of it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click
import numpy as np

from lana import pipeline
from lana.errors import BudgetUnreachable
from lana.exporters.computation import to_computation
from lana.models.student_files import load_student
from lana.runs.baseline import runtime_format, teacher_computation
from lana.selection.confidence import upper_bound_95
from profilers import compare
from solvers import frontier

BUDGETS = tuple(float(f"{ratio:.3f}") for ratio in np.linspace(0.25, 0.9, 10))
USED = (0.95, 0.99)


def deliver(run: Path) -> None:
    for ratio in BUDGETS:
        name = f"promise-{ratio:g}x"
        if not (run / "students" / name / "summary.json").is_file():
            try:
                pipeline.select(run, f"{ratio:g}x", name=name, quiet=True)
            except BudgetUnreachable as error:
                print(f"{run} {ratio:g}x: {error}", flush=True)


def measured_again(run: Path, processes: int) -> list[dict[str, Any]]:
    rows = []
    with pipeline.open_finished(run, quiet=True) as (context, baseline, _, search):
        example, pool = context.teacher.example(context.recipe.profiling.batch), run / "pool" / "networks"
        format = runtime_format(context.recipe.profiling.runtime, context.runtime_settings)
        points = frontier(search.model.problem(baseline.teacher_ms), "latency_ms", points=60)
        reachable = [search.model.predicted_ms(search.model.selection_of(p)) / baseline.teacher_ms for p in points]
        folders = [run / "students" / f"promise-{ratio:g}x" for ratio in BUDGETS]
        delivered = [(ratio, folder) for ratio, folder in zip(BUDGETS, folders, strict=True) if folder.is_dir()]
        files = [
            to_computation(load_student(folder), example, pool, name=folder.name, format=format, stem=folder.name)
            for _, folder in delivered
        ]
        if not files:
            return []
        comparisons = compare(
            teacher_computation(context),
            files,
            runtime=context.recipe.profiling.runtime,
            settings=context.runtime_settings,
            processes=processes,
        )
    for (ratio, folder), comparison in zip(delivered, comparisons, strict=True):
        rows.append(
            {
                "run": run.name,
                "budget": ratio,
                "student": folder.name,
                "ratio": round(comparison.ratio, 4),
                "upper95": round(upper_bound_95(comparison.ratios), 4),
                "used": round(comparison.ratio / ratio, 4),
                "could_use": any(USED[0] * ratio <= r <= USED[1] * ratio for r in reachable),
                "within": upper_bound_95(comparison.ratios) <= ratio,
            }
        )
    return rows


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--processes", default=10, help="Fresh processes to measure in.")
@click.option("--out", type=click.Path(path_type=Path))
def main(runs: tuple[Path, ...], processes: int, out: Path | None) -> None:
    for run in runs:
        deliver(run)
    rows = [row for run in runs for row in measured_again(run, processes)]
    if not rows:
        raise click.ClickException("No student was delivered: no budget is reachable in these runs.")
    for row in rows:
        print(*row.values(), sep="\t")
    within, over = sum(row["within"] for row in rows), max(row["ratio"] / row["budget"] - 1 for row in rows)
    could = [row for row in rows if row["could_use"]]
    used = sum(row["used"] >= USED[0] for row in could)
    print(f"upper 95% bound within the budget: {within} of {len(rows)}; largest excess of a median: {over:+.2%}")
    print(f"at least 95% used: {used} of {len(could)} where the frontier has a point there")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
