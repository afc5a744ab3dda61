"""Static plots of a run for papers and READMEs: accuracy against latency, as SVG and PNG. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lana.errors import UserError
from lana.report.data import gather


def write_plots(run: Path | str) -> list[Path]:
    """Write `accuracy.svg` and `accuracy.png` into RUN/plots.

    Raises:
        UserError: the run has no student yet, or matplotlib is not installed.
    """
    data, into = gather(run), Path(run) / "plots"
    if not data["students"]:
        raise UserError(f"{run} has no finished student to draw. Make one with: lana select {run} --budget 0.5x")
    figure = draw_accuracy(data)
    into.mkdir(parents=True, exist_ok=True)
    paths = [into / f"accuracy.{kind}" for kind in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    return paths


def draw_accuracy(data: dict[str, Any]) -> Any:
    """Teacher and students, before and after fine-tuning, as a matplotlib figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("Plots need matplotlib. Install it with: pip install matplotlib") from error
    students = sorted(data["students"], key=_milliseconds)
    first, xs = students[0], [_milliseconds(student) for student in students]
    figure = Figure(figsize=(6.5, 4))
    axes = figure.subplots()
    before = [student["selected_accuracy"] for student in students]
    axes.plot(xs, before, "o:", color="tab:green", mfc="none", label="students before fine-tuning")
    if any(student["curve"] for student in students):
        after = [student["student_accuracy"] for student in students]
        axes.plot(xs, after, "o-", color="tab:green", label="students")
    axes.plot(data["teacher_ms"], first["teacher_accuracy"], "*", color="tab:purple", ms=14, label="teacher")
    axes.set(
        xlabel=f"measured milliseconds ({data['runtime']})",
        ylabel=first["metric"],
        title=data["model"].rpartition("/")[2],
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _milliseconds(student: dict[str, Any]) -> float:
    return student["predicted_ms"] if student["measured_ms"] is None else student["measured_ms"]
