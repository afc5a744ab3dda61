from dataclasses import replace
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from selection_problems import best_by_enumeration, random_problem, small_problems

from solvers import (
    InvalidProblem,
    Limit,
    SelectionProblem,
    Solution,
    SolverError,
    Termination,
    explain,
    fastest,
    solve,
)


def two_devices(cpu: float, gpu: float) -> SelectionProblem:
    return SelectionProblem(
        layers=2,
        loss=[0.0, 0.3, 0.0, 0.4],
        first=[0, 0, 1, 1],
        span=[1, 1, 1, 1],
        costs={"cpu": [2.0, 3.0, 2.0, 1.0], "gpu": [3.0, 1.0, 3.0, 3.0]},
        limits={"cpu": Limit(upper=cpu), "gpu": Limit(upper=gpu)},
    )


def test_the_limits_in_conflict_and_what_each_would_have_to_give():
    found = explain(two_devices(cpu=3.5, gpu=4.5))
    assert set(found.conflict) == {"cpu", "gpu"}
    assert found.reachable == pytest.approx({"cpu": 3.0, "gpu": 4.0})
    # gpu ≤ 4.5 forces choice 1 (3 ms on the CPU) with the cheapest rest (1 ms); cpu ≤ 3.5 forces choices 0 and 3.
    assert found.needed == pytest.approx({"cpu": 4.0, "gpu": 6.0})


def test_a_limit_out_of_reach_by_itself_stands_alone():
    found = explain(two_devices(cpu=2.0, gpu=100.0))
    assert found.conflict == ("cpu",)
    assert "cpu would have to be at least 3" in str(found)


def test_pins_can_be_the_reason():
    pinned = replace(two_devices(cpu=100.0, gpu=4.5), fixed=(0,), names=("slow", "b", "c", "d"))
    found = explain(pinned)
    assert set(found.conflict) == {"gpu", "fixed slow"}


def test_a_limit_that_cannot_help_alone_says_so():
    problem = replace(two_devices(cpu=2.0, gpu=100.0), fixed=(0, 1))  # both cover layer 0
    found = explain(problem)
    assert "cpu" not in found.conflict
    assert set(found.conflict) == {"fixed choice 0", "fixed choice 1"}


def test_what_a_limit_must_give_lies_above_its_own_lower_limit():
    costs, limits = {"ms": [3.0, 8.0]}, {"ms": Limit(lower=5.0, upper=6.0)}
    problem = SelectionProblem(layers=1, loss=[0, 0], first=[0, 0], span=[1, 1], costs=costs, limits=limits)
    assert explain(problem).needed == {"ms": 8.0}


def test_nothing_to_explain():
    assert explain(two_devices(cpu=4.0, gpu=6.0)) is None


def test_the_fastest_within_a_loss():
    problem = random_problem(6, 5, seed=2)
    within = fastest(problem, "cost0", max_loss=2.2)
    assert within.costs["loss"] <= 2.2
    backwards = solve(replace(problem, limits={"cost0": Limit(upper=within.objective)}), gap=0.0)
    assert backwards.objective <= 2.2 + 1e-9
    with pytest.raises(InvalidProblem, match="No cost 'ms'; the costs are: cost0"):
        fastest(problem, "ms")


@given(small_problems())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_conflict_is_irreducible(problem):
    found = explain(problem)
    feasible = best_by_enumeration(problem) is not None
    assert (found is None) == feasible
    if found is None:
        return
    for name in set(found.conflict) & set(problem.limits):
        only = {k: v for k, v in problem.limits.items() if k in found.conflict and k != name}
        kept = {
            "fixed": tuple(c for c in problem.fixed if f"fixed {problem.name_of(c)}" in found.conflict),
            "forbidden": problem.forbidden if "forbidden choices" in found.conflict else (),
            "ties": tuple(t for i, t in enumerate(problem.ties) if f"tie {i}" in found.conflict),
            "counts": tuple(c for c in problem.counts if c.name in found.conflict),
            "distances": tuple(d for i, d in enumerate(problem.distances) if f"distance {i}" in found.conflict),
        }
        assert best_by_enumeration(replace(problem, limits=only, **kept)) is not None
    for name, value in found.needed.items():
        if value < inf:
            upper = value + 1e-6 * abs(value)
            widened = {**problem.limits, name: replace(problem.limits[name], upper=upper)}
            assert best_by_enumeration(replace(problem, limits=widened)) is not None


def test_what_time_leaves_undecided_is_neither_conflict_nor_none(monkeypatch):
    nothing = Solution(termination=Termination.no_solution, runtime_s=0.0)
    monkeypatch.setattr("solvers.feasibility.solve", lambda *arguments, **options: nothing)
    with pytest.raises(SolverError, match="none was excluded"):
        explain(two_devices(cpu=3.5, gpu=4.5))
