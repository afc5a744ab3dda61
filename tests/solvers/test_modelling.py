"""PuLP is the installed one; how the other one tells an end is played by a model of a few lines."""

from enum import IntEnum
from types import SimpleNamespace

import pulp
import pytest

from solvers.modelling import expression, solve_model
from solvers.solution import Termination


@pytest.mark.parametrize(("bound", "termination"), [(3, Termination.optimal), (-1, Termination.infeasible)])
def test_a_solve_ends_as_it_is(bound, termination):
    model = pulp.LpProblem("sum", pulp.LpMinimize)
    x, y = (model.add_variable(name, 0, 1, pulp.LpInteger) for name in "xy")
    model += expression([(x, 1.0), (y, 2.0)])
    model += expression([(x, 1.0), (y, 1.0)]) >= 1
    model += expression([(x, 1.0), (y, 1.0)]) <= bound
    assert solve_model(model, pulp.getSolver("HiGHS", msg=False)) is termination
    if termination is Termination.optimal:
        assert (x.varValue, y.varValue) == (1, 0)


@pytest.mark.parametrize(
    ("status", "found", "termination"),
    [
        ("Optimal", True, Termination.optimal),
        ("GapLimit", True, Termination.optimal),
        ("TimeLimit", True, Termination.feasible_at_limit),
        ("TimeLimit", False, Termination.no_solution),
        ("Infeasible", False, Termination.infeasible),
    ],
)
def test_ends_that_pulp_4_names(monkeypatch, status, found, termination):
    names = IntEnum("names", ["Optimal", "GapLimit", "TimeLimit", "Infeasible"])
    monkeypatch.setattr(pulp, "LpSolveStatus", names, raising=False)
    model = SimpleNamespace(solve=lambda solver: SimpleNamespace(status=names[status], has_solution=found))
    assert solve_model(model, None) is termination


@pytest.mark.parametrize(
    ("status", "solution", "termination"),
    [
        (1, 1, Termination.optimal),
        (1, 2, Termination.feasible_at_limit),
        (0, 0, Termination.no_solution),
        (-1, -1, Termination.infeasible),
    ],
)
def test_ends_that_pulp_3_names(monkeypatch, status, solution, termination):
    monkeypatch.setattr(pulp, "LpSolutionIntegerFeasible", 2, raising=False)
    for name, code in (("Optimal", 1), ("Infeasible", -1)):
        monkeypatch.setattr(pulp, f"LpStatus{name}", code, raising=False)
        monkeypatch.setattr(pulp, f"LpSolution{name}", code, raising=False)
    model = SimpleNamespace(solve=lambda solver: status, status=status, sol_status=solution)
    assert solve_model(model, None) is termination
