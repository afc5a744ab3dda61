import numpy as np
import pytest

from solvers import CountLimit, DistanceLimit, InvalidProblem, InvalidSelection, Limit, SelectionProblem, check

GOOD = {"layers": 2, "loss": [0.0, 0.1, 0.2], "first": [0, 1, 0], "span": [1, 1, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "at least one layer"),
        ({"loss": [0.0, 0.1]}, "like loss, got"),
        ({"loss": [0.0, float("nan"), 0.2]}, "loss of choice 1 is not a finite number"),
        ({"loss": [[0.0, 0.1, 0.2]]}, r"Expected loss of shape \(n,\)"),
        ({"span": [1, 1, 3]}, "choice 2 covers layers 0 to 2; expected a span inside 0 to 1"),
        ({"first": [0, 0.5, 0]}, "Expected whole numbers in first"),
        ({"limits": {"ms": Limit(upper=1)}}, "A limit on 'ms', but the costs are: none"),
        ({"fixed": (3,)}, "fixed names the choice 3; expected 0 to 2"),
        ({"fixed": (1,), "forbidden": (1,)}, "both fixed and forbidden"),
        ({"names": ("a",)}, "Expected 3 names"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(InvalidProblem, match=message):
        SelectionProblem(**{**GOOD, **change})


def test_bounds_are_checked():
    with pytest.raises(InvalidProblem, match="lower bound 2 exceeds upper bound 1"):
        Limit(lower=2, upper=1)
    with pytest.raises(InvalidProblem, match="NaN"):
        Limit(upper=float("nan"))
    with pytest.raises(InvalidProblem, match="names a choice twice"):
        CountLimit(choices=(1, 1))
    with pytest.raises(InvalidProblem, match="minimum >= 0"):
        DistanceLimit(chosen=(0,), minimum=-1)


def test_arrays_cannot_be_changed_behind_its_back():
    problem = SelectionProblem(**GOOD)
    with pytest.raises(ValueError, match="read-only"):
        problem.loss[0] = 1.0


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0], "layer 1 is covered 0 times"),
        ([0, 2], "layer 0 is covered 2 times"),
        ([0, 0, 1], "named twice"),
        ([7], "choice 7 does not exist"),
    ],
)
def test_a_selection_is_checked_in_plain_python(chosen, message):
    with pytest.raises(InvalidSelection, match=message):
        check(SelectionProblem(**GOOD), chosen)


def test_units_of_any_size_sit_together():
    from solvers import solve

    random = np.random.default_rng(0)
    tables = {"ms": random.random((8, 6)) * 1e-3, "parameters": random.random((8, 6)) * 1e8}
    loss = random.random((8, 6))
    limits = {"ms": Limit(upper=3e-3), "parameters": Limit(upper=3.5e8)}
    plain = {name: table / table.max() for name, table in tables.items()}
    scaled = {name: Limit(upper=limits[name].upper / tables[name].max()) for name in limits}
    small = solve(SelectionProblem.from_tables(loss, plain, limits=scaled), gap=0.0)
    large = solve(SelectionProblem.from_tables(loss, tables, limits=limits), gap=0.0)
    assert large.found
    assert large.chosen == small.chosen
