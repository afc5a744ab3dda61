"""What is printed at the end of a run."""

import io

import pytest
from made_summary import make_summary
from rich.console import Console

from lana.delivery.model_card import card


def shown(**changes):
    console = Console(file=io.StringIO(), width=200)
    make_summary(**changes).show(console)
    return console.file.getvalue()


def test_a_student_within_its_budget():
    text = shown()
    assert "Within the budget; 90.0% of it is used." in text
    assert "disturbed" not in text


def test_a_bound_far_above_the_measurement_is_told():
    assert "The bound lies 10% above the measurement: the machine was disturbed." in shown(measured_ms_upper95=0.99)


def test_a_student_of_no_use_is_a_warning_with_what_to_do():
    text = shown(metric_kept=0.04)
    assert "WARNING: 0.5x keeps 4.0% of the teacher's accuracy above a guess" in text
    assert "--exclude" in text
    assert "**Warning**: 0.5x keeps" in card(make_summary(metric_kept=0.04))
    assert "WARNING" not in shown(metric_kept=0.2)


def test_the_interval_of_the_change_is_printed():
    interval = (-0.06, -0.01)
    assert "accuracy less the teacher's, 95% interval: -6.00 points to -1.00 points." in shown(
        accuracy_change95=interval
    )
    assert "-6.00 points to -1.00 points" in card(make_summary(accuracy_change95=interval))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verified": False}, "NOT within the budget"),
        ({"measured_ms": None, "measured_ms_upper95": None, "verified": False}, "Not verified"),
        (
            {"verified": False, "max_size_mb": 1.0, "file_bytes": 1_200_000, "reason": "its file has 1.2 MB"},
            "NOT within the size: its file has 1.2 MB.",
        ),
        ({"changed": False, "budget_ms": 3.0}, "meets the budget of 3 ms already"),
    ],
)
def test_other_ends_are_told(changes, message):
    assert message in shown(**changes)


def test_where_calm_never_came_the_command_that_verifies_later_is_told():
    waited = {"processes": 10, "calm": 0, "waited": 0.7, "noticed_by": "switches", "disturbed": True}
    reason = "other work disturbed the measurement (0 of 10 processes were calm)"
    text = shown(verified=False, measuring=waited, reason=reason)
    assert f"Not verified: {reason}." in text
    assert "lana verify RUN/students/0.5x" in text
    assert "NOT within" not in text
    summary = make_summary(verified=False, measuring=waited, reason=reason)
    assert summary.disturbed
    assert not summary.over_budget
    assert make_summary(verified=False).over_budget
    assert not make_summary().over_budget
    assert not make_summary(verified=False, measured_ms=None).over_budget
