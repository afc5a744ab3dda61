"""What is printed at the end of a run."""

import io

import pytest
from rich.console import Console

from lana.summary import Summary


def shown(**changes):
    given = {
        "student": "0.5x", "model": "net.py:build", "runtime": "onnxruntime-cpu", "threads": 1, "batch": 1,
        "budget_ms": 1.0, "teacher_ms": 2.0, "metric": "accuracy", "teacher_accuracy": 0.9, "test_examples": 100,
        "teacher_parameters": 1000, "predicted_ms": 0.95, "measured_ms": 0.9, "measured_ms_upper95": 0.91,
        "verified": True, "speedup": 2.2, "budget_used": 0.9, "selected_accuracy": 0.8, "student_accuracy": 0.85,
        "student_parameters": 500,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    Summary(**{**given, **changes}).show(console)
    return console.file.getvalue()


def test_a_student_within_its_budget():
    text = shown()
    assert "Within the budget; 90.0% of it is used." in text
    assert "disturbed" not in text


def test_a_bound_far_above_the_measurement_is_told():
    assert "The bound lies 10% above the measurement: the machine was disturbed." in shown(measured_ms_upper95=0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verified": False}, "NOT within the budget"),
        ({"measured_ms": None, "measured_ms_upper95": None, "verified": False}, "Not verified"),
        ({"changed": False, "budget_ms": 3.0}, "meets the budget of 3 ms already"),
    ],
)
def test_other_ends_are_told(changes, message):
    assert message in shown(**changes)
