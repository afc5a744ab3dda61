"""The summary of a delivered student, as `summary.json` and as the table that the terminal shows."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lana.common.console import change, figure, make_console, milliseconds
from lana.common.files import read_json, read_record
from lana.common.progress import counted
from lana.delivery.delivered import DeliveredFiles, figures_of
from lana.models.student import count_parameters, parameter_bytes
from lana.models.student_files import Selected
from lana.runs.baseline import Baseline, runtime_format
from lana.runs.context import RunContext
from lana.selection.int8_alone import int8_alone
from lana.selection.measurement_log import MeasuredLatency
from lana.version import __version__
from profilers.formats import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A delivered student compared with its teacher.

    Accuracies are the task's metric on the test split. `accuracy_change95` is the 95% interval of the student's less
    the teacher's, by a bootstrap over images, paired. `other_metrics` are further figures of the
    teacher and the student. `metric_kept` is the share that the student keeps of what
    the teacher has above a guess. Where the device was not measured, `measured_ms` and its upper
    95% bound are None. `verified` is true if the bound was measured, undisturbed, and lies within the budget; `reason`
    tells why it is not. `measuring` tells how many processes measured, and how many of them were calm. `changed` is
    false where the teacher met the budget already and nothing was made. With `max_loss` the student is the fastest that
    is expected to lose at most that. The budget is then the program's own, not the user's, and is never missed.
    `preprocessing` describes what the network is fed, `classes` are the names of its outputs in their order.
    `file_bytes` is the size of the file that was measured; with `max_size_mb` it has to keep that, too.
    """

    student: str
    model: str
    runtime: str
    threads: int
    batch: int
    budget_ms: float
    teacher_ms: float
    metric: str
    teacher_accuracy: float
    test_examples: int
    teacher_parameters: int
    changed: bool = True
    max_loss: float | None = None
    max_size_mb: float | None = None
    file_bytes: int | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    measured_ms_upper95: float | None = None
    verified: bool = False
    reason: str | None = None
    measuring: Mapping[str, Any] | None = None
    speedup: float | None = None
    budget_used: float | None = None
    selected_accuracy: float | None = None
    student_accuracy: float | None = None
    accuracy_change95: Sequence[float] | None = None
    other_metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    metric_kept: float | None = None
    student_parameters: int | None = None
    onnx_max_relative_error: float | None = None
    int8_alone: Mapping[str, Any] | None = None
    prediction_error: Mapping[str, float] | None = None
    selection: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] | None = None
    classes: Sequence[str] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ruin(self) -> str | None:
        """The advice for a student that computes next to nothing of use; None for any other."""
        if self.metric_kept is None or self.metric_kept >= RUINED:
            return None
        return (
            f"{self.student} keeps {max(self.metric_kept, 0.0):.1%} of the teacher's {self.metric} above a guess. "
            "Give a higher --budget or more --epochs, more training images, or leave the layers "
            "that matter most as they are (--exclude; lana report shows the loss of each)."
        )

    @property
    def disturbed(self) -> bool:
        """True if other processes disturbed all that was measured."""
        return bool(self.measuring and self.measuring["disturbed"])

    @property
    def over_budget(self) -> bool:
        """True if it was measured, undisturbed, and the bound lies above the budget."""
        return self.measured_ms is not None and not (self.verified or self.disturbed or self.over_size)

    @property
    def over_size(self) -> bool:
        """True if its file is larger than it may be."""
        return self.max_size_mb is not None and (self.file_bytes or 0) > self.max_size_mb * 1e6

    @classmethod
    def read(cls, path: Path) -> Summary:
        """The summary of a student's folder.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_record(path, cls, positive=("budget_ms", "teacher_ms", "measured_ms", "measured_ms_upper95"))

    def show(self, console: Console | None = None) -> None:
        """Print teacher and student side by side."""
        console = console or make_console()
        if not self.changed:
            console.print(
                f"The teacher takes {self.teacher_ms:.4g} ms and meets the budget of {self.budget_ms:.4g} ms already: "
                "nothing was changed."
            )
            return
        show_run([self], console)
        if self.accuracy_change95:
            low, high = self.accuracy_change95
            console.print(f"{self.metric} less the teacher's, 95% interval: {change(low)} to {change(high)}.")
        for name, (teacher, student) in self.other_metrics.items():
            console.print(f"{name}: the teacher's {figure(teacher)}, the student's {figure(student)}.")
        if self.ruin:
            console.print(f"WARNING: {self.ruin}", style="bold red", soft_wrap=True)
        if self.measured_ms is None or self.disturbed:
            console.print(
                f"Not verified: {self.reason or 'the student was not measured, its milliseconds are predicted'}. "
                f"When the machine is quiet: lana verify RUN/students/{self.student}",
                style="yellow",
                soft_wrap=True,
            )
        elif self.over_size:
            console.print(f"NOT within the size: {self.reason}.", style="bold red")
        elif not self.verified:
            console.print(
                "NOT within the budget: the upper 95% bound of the measurement lies above it.",
                style="bold red",
            )
        elif self.max_loss is not None:
            console.print(f"The fastest that is expected to lose at most {self.max_loss:g}.")
        else:
            console.print(f"Within the budget; {self.budget_used:.1%} of it is used.")
            if self.measured_ms_upper95 and self.measured_ms_upper95 > DISTURBED * self.measured_ms:
                console.print(
                    f"The bound lies {self.measured_ms_upper95 / self.measured_ms - 1:.0%} above the measurement: the "
                    "machine was disturbed. When it is quiet, a better student may be found by: "
                    f"lana select RUN --budget-ms {self.budget_ms:.4g}",
                    style="yellow",
                )


RUINED = 0.1  # of the metric above a guess: less than a tenth is no student of its teacher
DISTURBED = 1.05  # the upper 95% bound over the measurement; on a quiet machine it is about 1.01
COLUMNS = (
    "",
    "before tuning",
    "predicted ms",
    "measured ms",
    "upper 95%",
    "budget ms",
    "speed-up",
    "parameters",
)


def show_run(summaries: Sequence[Summary], console: Console | None = None) -> None:
    """Print the teacher and its students in one table."""
    first = summaries[0]
    table = Table(title=f"{first.model} on {first.runtime}, {counted(first.threads, 'thread')}, batch {first.batch}")
    for column in (COLUMNS[0], first.metric, *COLUMNS[1:]):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_row(
        "teacher",
        figure(first.teacher_accuracy),
        "",
        "",
        milliseconds(first.teacher_ms),
        "",
        "",
        "1.00×",
        f"{first.teacher_parameters:,}",
    )
    for summary in summaries:
        table.add_row(
            summary.student,
            figure(summary.student_accuracy),
            figure(summary.selected_accuracy),
            milliseconds(summary.predicted_ms),
            milliseconds(summary.measured_ms),
            milliseconds(summary.measured_ms_upper95),
            milliseconds(summary.budget_ms),
            f"{summary.speedup:.2f}×" if summary.speedup else "–",
            f"{summary.student_parameters:,}",
        )
    (console or make_console()).print(table)


def summarise(
    context: RunContext,
    baseline: Baseline,
    folder: Path,
    *,
    files: DeliveredFiles,
    measured: MeasuredLatency | None,
    begun_s: float,
) -> Summary:
    """Gather a student's figures; its delivery began at `begun_s`."""
    chosen = Selected.read(folder)
    finetuned = folder / "finetuned.json"
    budget_ms = baseline.budget_ms(context.recipe)
    figures: dict[str, Any] = {"reason": "the student was not measured, its milliseconds are predicted"}
    if measured is not None:
        if chosen.max_loss is not None:  # the budget was only a means
            budget_ms = max(budget_ms, measured.ratio_upper95 * baseline.teacher_ms)
        figures = _measured_figures(measured, baseline.teacher_ms, budget_ms)
    tuning: dict[str, Any] = read_json(finetuned, {"seconds": 0.0})
    size = _file_size(context, folder)
    if (largest_mb := context.recipe.selecting.max_size_mb) is not None and size > largest_mb * 1e6:
        figures |= {"verified": False, "reason": f"its file has {size / 1e6:.3g} MB, over {largest_mb:g} MB"}
    return Summary(
        **_common(context, baseline, folder.name, budget_ms),
        **figures,
        **figures_of(context, baseline, files.promised),
        max_loss=chosen.max_loss,
        max_size_mb=largest_mb,
        file_bytes=size,
        predicted_ms=chosen.predicted_ms,
        selected_accuracy=chosen.selected_metric,
        student_parameters=count_parameters(files.student),
        onnx_max_relative_error=files.parity,
        int8_alone=asdict(alone) if (alone := int8_alone(context)) and alone.ratio else None,
        prediction_error=chosen.prediction_error,
        selection=chosen.selection,
        seconds={
            **context.run.seconds(),
            "select": chosen.seconds,
            "finetune": tuning["seconds"],
            "deliver": round(time.monotonic() - begun_s, 2),
        },
    )


def _file_size(context: RunContext, folder: Path) -> int:
    """The bytes of the file that the runtime runs."""
    format = runtime_format(context.recipe.profiling.runtime, context.runtime_settings)
    return (folder / f"model{SUFFIXES[format]}").stat().st_size


def _measured_figures(measured: MeasuredLatency, teacher_ms: float, budget_ms: float) -> dict[str, Any]:
    """The figures of a student's measurement, and how calm the machine was."""
    upper_ms = measured.ratio_upper95 * teacher_ms
    return {
        "measured_ms": measured.ratio * teacher_ms,
        "measured_ms_upper95": upper_ms,
        "verified": upper_ms <= budget_ms and not measured.disturbed,
        "reason": _reason(measured, upper_ms, budget_ms),
        "measuring": {
            "processes": len(measured.ratios),
            "calm": len(measured.calm_ratios),
            "waited": statistics.median(measured.waited) if measured.waited else None,
            "noticed_by": measured.watched or None,
            "disturbed": measured.disturbed,
        },
        "speedup": 1 / measured.ratio,
        "budget_used": measured.ratio * teacher_ms / budget_ms,
    }


def _reason(measured: MeasuredLatency, upper_ms: float, budget_ms: float) -> str | None:
    """Why a measured student is not verified."""
    if measured.disturbed:
        waited = f", they waited {statistics.median(measured.waited):.0%} of their time" if measured.waited else ""
        calm, processes = len(measured.calm_ratios), len(measured.ratios)
        return f"other work disturbed the measurement ({calm} of {processes} processes were calm{waited})"
    return None if upper_ms <= budget_ms else "the upper 95% bound of the measurement lies above the budget"


def meets_budgets(context: RunContext, baseline: Baseline) -> bool:
    """True if the teacher keeps the budget, and the largest size where there is one."""
    selecting, budget_ms = context.recipe.selecting, baseline.budget_ms(context.recipe)
    small = selecting.max_size_mb is None or parameter_bytes(context.teacher.module) <= selecting.max_size_mb * 1e6
    return budget_ms >= baseline.teacher_ms and small


def nothing_to_do(context: RunContext, baseline: Baseline, budget_ms: float) -> Summary:
    """The teacher meets the budget already."""
    return Summary(**_common(context, baseline, "teacher", budget_ms), changed=False)


def _common(context: RunContext, baseline: Baseline, name: str, budget_ms: float) -> dict[str, Any]:
    recipe = context.recipe
    return {
        "student": name,
        "model": recipe.teacher.model,
        "runtime": recipe.profiling.runtime,
        "threads": recipe.profiling.threads,
        "batch": recipe.profiling.batch,
        "budget_ms": budget_ms,
        "teacher_ms": baseline.teacher_ms,
        "metric": context.task.metric_name,
        "teacher_accuracy": baseline.metric,
        "test_examples": baseline.examples,
        "teacher_parameters": count_parameters(context.teacher.module),
        "preprocessing": asdict(images) if (images := context.teacher.preprocessing) else None,
        "classes": context.data.classes,
        "seed": recipe.seed,
        "versions": {
            "lana": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **baseline.runtime_versions,
        },
    }
