"""A student as its files have it, and its figures on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lana.evaluation.intervals import paired_interval
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import other_figures
from lana.runs.baseline import Baseline, teacher_records
from lana.runs.context import RunContext


@dataclass(frozen=True, kw_only=True, eq=False)
class DeliveredFiles:
    """A student as its files have it.

    Attributes:
        promised: gives the outputs of the file that the runtime runs: the student itself, or its int8 file.
        parity: how far the ONNX file is from the student, relative to the largest output.
    """

    student: nn.Module
    promised: nn.Module
    parity: float | None


def figures_of(context: RunContext, baseline: Baseline, student: nn.Module) -> dict[str, Any]:
    """The student's metrics on the test split, beside the teacher's."""
    own = evaluate_module(student, context.data.test, context.task, device=context.recipe.compute.device)
    theirs = teacher_records(context)
    others = other_figures(context.task, theirs)
    with torch.no_grad():
        guess = context.task.chance(context.teacher.module(context.teacher.example()))
    return {
        "student_accuracy": own.metric,
        "accuracy_change95": paired_interval(context.task, own.records, theirs, seed=context.recipe.seed),
        "other_metrics": {name: (others[name], value) for name, value in own.others.items()},
        "metric_kept": (own.metric - guess) / (baseline.metric - guess),
    }
