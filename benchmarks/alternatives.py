"""Which of the students that a search measured is the best after tuning, and what predicts it?

    python benchmarks/alternatives.py RUN --from 0.26 --to 0.303 --draw 12 --epochs 10 --seeds 2

RUN is a run with selected students. All measured ones in that range of the teacher's latency are tuned alike. They are
near the optimum: --draw adds others of the range, found by solving with perturbed losses, and measures them. The run
keeps the measurements. With --elsewhere the networks are written for `tune.py` on another machine, as in `family.py`.

A least-squares fit is printed too: the gain in accuracy after tuning from ten percent more latency, less loss before,
and more parameters.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from contenders import BATCH, Contender, begin, leave, save, tune, tuning_options

from lana.models.selection import Selection
from lana.models.student import count_parameters
from lana.pipeline import open_finished
from lana.report.score_ranking import LOSS_SIGMAS
from lana.selection.measurement import assembled
from lana.selection.sampling import sample
from lana.selection.search import BudgetSearch


def drawn(search: BudgetSearch, low: float, high: float, count: int) -> list[Selection]:
    """`count` selections between two shares of the teacher's latency, near the optimum and far from it, measured."""
    middle, loop = (low + high) / 2, f"alternatives {low:g}x to {high:g}x, {count} drawn"
    # The same command draws the same students again, however much was measured since.
    search.begin(loop)
    width = (high - low) / 2 / middle
    selections = sample(search.model, middle * search.model.teacher_ms, count, width_ratio=width, sigmas=LOSS_SIGMAS)
    search.measure_latencies(selections, 3)
    search.measure_losses(selections)
    return selections


def fitted(
    ratios: Sequence[float], losses: Sequence[float], parameters: Sequence[int], accuracies: Sequence[float]
) -> tuple[float, float, float]:
    """Points of accuracy gained by a tenth more latency, a tenth less loss and a tenth more parameters."""
    columns = np.column_stack([np.ones(len(ratios)), np.log(ratios), np.log(losses), np.log(parameters)])
    _, latency, loss, more = np.linalg.lstsq(columns, np.array(accuracies), rcond=None)[0]
    return float(latency * np.log(1.1)), float(loss * np.log(0.9)), float(more * np.log(1.1))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--from", "low", type=float, required=True, help="Share of the teacher's latency.")
@click.option("--to", "high", type=float, required=True)
@click.option("--draw", type=int, default=0, help="Further students of the range to draw and measure.")
@tuning_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/alternatives"))
def main(
    run: Path,
    low: float,
    high: float,
    draw: int,
    epochs: float,
    seeds: int,
    compile: bool,
    elsewhere: bool,
    out: Path,
) -> None:
    with open_finished(run) as (context, _, pool, search):
        begin(out, context)
        others = drawn(search, low, high, draw) if draw else []
        within = [m for m in search.model.measured.values() if low <= m.ratio <= high or m.selection in others]
        students = []
        if not within:
            raise click.UsageError(f"No student of {run} was measured between {low:g}x and {high:g}x.")
        for m in within:
            which = hashlib.sha256(str(sorted(m.selection.items())).encode()).hexdigest()[:6]
            name = f"measured-{m.ratio:.3f}x-{which}"
            if not (file := out / f"{name}.pt").is_file():  # made once: results are kept by the weights they began with
                save(assembled(context, pool, m.selection), file)
            students.append(Contender(name=name, kind="lana", module=torch.load(file, weights_only=False)))
    if elsewhere:
        leave(students, out / "tuned", epochs=epochs, seeds=seeds)
        return
    for student in students:
        for seed in range(seeds):
            tune(context, student, epochs=epochs, seed=seed, folder=out / "tuned", compile=compile)
    losses = [search.model.measured_losses.get(m.selection) for m in within]
    print(f"batches of {BATCH}, {epochs:g} epochs, {seeds} seeds")
    parameters = [count_parameters(student.module) for student in students]
    for m, loss, count, student in zip(within, losses, parameters, students, strict=True):
        print(
            f"{m.ratio:.3f}x, {count} parameters, "
            f"loss {'not measured' if loss is None else f'{loss:.3f}'}, "
            f"{student.before:.2%} before, {student.accuracy:.2%} after"
        )
    points = [
        (m.ratio, loss, count, s.accuracy)
        for m, loss, count, s in zip(within, losses, parameters, students, strict=True)
        if loss is not None and math.isfinite(loss)
    ]
    if len(points) > 4:
        latency, less, more = fitted(*zip(*points, strict=True))
        print(
            f"{len(points)} students: a tenth more latency {latency:+.2%}, a tenth less loss before {less:+.2%}, "
            f"a tenth more parameters {more:+.2%}"
        )
        print(
            f"accuracies from {min(s.accuracy for s in students):.2%}, median "
            f"{statistics.median(s.accuracy for s in students):.2%}"
        )


if __name__ == "__main__":
    main()
