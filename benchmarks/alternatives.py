"""Which of the students that a search measured is the best after tuning? What tells it beforehand?

    python benchmarks/alternatives.py RUN --from 0.26 --to 0.303 --epochs 10 --seeds 2

RUN is a run with selected students; all measured ones in that range of the teacher's latency are tuned alike. With
--elsewhere the networks are written for `tune.py` on another machine, as in `family.py`. Printed beside them: what
the accuracy after tuning gains by ten percent more latency, and by ten percent less loss before, in a least-squares fit
of both.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from contenders import BATCH, Contender, begin, leave, save, tune

from lana import selecting
from lana.pipeline import open_finished
from lana.student import count_parameters


def fitted(ratios: Sequence[float], losses: Sequence[float], accuracies: Sequence[float]) -> tuple[float, float]:
    """What a tenth more latency and a tenth less loss bring, in points of accuracy."""
    columns = np.column_stack([np.ones(len(ratios)), np.log(ratios), np.log(losses)])
    _, latency, loss = np.linalg.lstsq(columns, np.array(accuracies), rcond=None)[0]
    return float(latency * np.log(1.1)), float(loss * np.log(0.9))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--from", "low", type=float, required=True, help="Share of the teacher's latency.")
@click.option("--to", "high", type=float, required=True)
@click.option("--epochs", type=float, default=3.0)
@click.option("--seeds", type=int, default=1)
@click.option("--elsewhere", is_flag=True, help="Write what is not tuned yet, for tune.py on another machine.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/alternatives"))
def main(run: Path, low: float, high: float, epochs: float, seeds: int, elsewhere: bool, out: Path) -> None:
    with open_finished(run) as (setting, _, selector):
        begin(out, setting)
        operations = selecting.trained_operations(setting, selector.offers)
        within, students = [m for m in selector.log.pooled() if low <= m.ratio <= high], []
        if not within:
            raise click.UsageError(f"No student of {run} was measured between {low:g}x and {high:g}x.")
        for m in within:
            which = hashlib.sha256(str(sorted(m.selection.items())).encode()).hexdigest()[:6]
            name = f"measured-{m.ratio:.3f}x-{which}"
            if not (file := out / f"{name}.pt").is_file():  # made once: results are kept by the weights they began with
                save(selecting.assembled(setting, selector, m.selection, operations), file)
            students.append(Contender(name=name, kind="lana", module=torch.load(file, weights_only=False)))
    if elsewhere:
        leave(students, out / "tuned", epochs=epochs, seeds=seeds)
        return
    for student in students:
        for seed in range(seeds):
            tune(setting, student, epochs=epochs, seed=seed, folder=out / "tuned")
    found = [selector.loss_log.of(m.selection) for m in within]
    print(f"batches of {BATCH}, {epochs:g} epochs, {seeds} seeds")
    for m, loss, student in zip(within, found, students, strict=True):
        print(
            f"{m.ratio:.3f}x, {count_parameters(student.module)} parameters, "
            f"loss {'not measured' if loss is None else f'{loss:.3f}'}, "
            f"{student.before:.2%} before, {student.accuracy:.2%} after"
        )
    known = [
        (m.ratio, loss, s.accuracy) for m, loss, s in zip(within, found, students, strict=True) if loss is not None
    ]
    if len(known) > 3:
        latency, less = fitted(*zip(*known, strict=True))
        print(f"{len(known)} students: a tenth more latency {latency:+.2%}, a tenth less loss before {less:+.2%}")
        print(
            f"accuracies from {min(s.accuracy for s in students):.2%}, median "
            f"{statistics.median(s.accuracy for s in students):.2%}"
        )


if __name__ == "__main__":
    main()
