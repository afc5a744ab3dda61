"""What is printed at the end of a run."""

import io

import pytest
from made_summary import make_summary
from rich.console import Console


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
