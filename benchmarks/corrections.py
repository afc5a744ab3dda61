"""Expected against measured loss, on students that the correction has not seen.

    python benchmarks/corrections.py RUN [RUN …]

RUN is a finished run with students for several budgets. `near` predicts half of a budget's students from the other half
and all students measured before. `far` predicts the students of every later budget from the ones of the first alone.
Errors are medians of |log(expected / measured)|; the bias keeps the sign. τ is Kendall's, the mean over budgets.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd

from lana.models.selection import Selection
from lana.report.data import read_model
from lana.report.score_ranking import tau
from lana.runs.run import Run
from lana.selection.loss_model import MIN_MEASURED_STUDENTS, Losses, corrected
from lana.selection.program import SelectionModel

Known = tuple[Selection, float]
TEACHER: Known = (Selection(), 0.0)
LEAST = 1e-4  # what is expected to lose less counts as this


def expect(model: SelectionModel, known: Sequence[Known], around_ms: float, how: str) -> Losses:
    if how == "plain sum":
        return Losses(of=model.scores)
    latencies_ms = np.array([model.predicted_ms(selection) for selection, _ in known])
    if how == "with the teacher":
        around_ms = max(around_ms, latencies_ms.min())
        known, latencies_ms = [TEACHER, *known], np.array([model.teacher_ms, *latencies_ms])
    return corrected(model.scores, known, list(latencies_ms / around_ms - 1))


def judge(model: SelectionModel, folds: Sequence[tuple[Sequence[Known], Sequence[Known]]], how: str) -> list[float]:
    """Median error, bias and τ over the folds' students, each (known, asked for)."""
    expected, measured = [], []
    for known, asked in folds:
        around_ms = float(np.median([model.predicted_ms(selection) for selection, _ in asked]))
        losses = expect(model, known, around_ms, how)
        for selection, loss in asked:
            expected.append(max(losses.total(selection.items()), LEAST))
            measured.append(loss)
    off = np.log(np.array(expected) / np.array(measured))
    return [float(np.median(np.abs(off))), float(np.median(off)), tau(np.array(expected), np.array(measured))]


def groups(path: Path, model: SelectionModel) -> list[list[Known]]:
    """The students whose loss was measured, by the budget they were measured for, in order."""
    students: dict[str, list[Known]] = {}
    frame = pd.read_csv(path, keep_default_na=False)
    for loop, text, loss in zip(frame["loop"], frame["selection"], frame["loss"].astype(float), strict=True):
        selection = Selection(json.loads(text))
        if loss > 0 and all(pair in model.scores for pair in selection.items()):
            students.setdefault(str(loop), []).append((selection, loss))
    return [group for group in students.values() if len(group) >= MIN_MEASURED_STUDENTS]


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
def main(runs: tuple[Path, ...]) -> None:
    for path in runs:
        with Run.open(path) as run:
            model = read_model(run)
            each = groups(run.pool / "losses.csv", model)
        print(f"{path}: {sum(map(len, each))} students at {len(each)} budgets")
        for how in ("plain sum", "without the teacher", "with the teacher"):
            near, far = [], []
            for index, group in enumerate(each):
                before = list(itertools.chain(*each[:index]))
                halves = [([*before, *group[1 - half :: 2]], group[half::2]) for half in (0, 1)]
                near.append(judge(model, halves, how))
                if index:
                    far.append(judge(model, [(each[0], group)], how))
            for name, rows in (("near", near), ("far", far)) if far else (("near", near),):
                error, _, order = np.mean(rows, axis=0)
                worst = max(rows, key=lambda row: row[0])
                print(
                    f"  {how}, {name}: error {error:.2f}, at worst {worst[0]:.2f} (bias {worst[1]:+.2f}), τ {order:.2f}"
                )


if __name__ == "__main__":
    main()
