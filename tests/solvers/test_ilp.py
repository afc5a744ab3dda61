import pytest
from hypothesis import HealthCheck, given, settings

from solvers import Limit, SelectionProblem, SolverUnavailable, Termination, available_solvers, check, solve

from selection_problems import best_by_enumeration, random_problem, small_problems


def assert_equals_enumeration(problem: SelectionProblem, solver: str = "HiGHS") -> None:
    truth = best_by_enumeration(problem)
    solution = solve(problem, gap=0.0, solver=solver)
    if truth is None:
        assert solution.termination is Termination.infeasible
        assert solution.chosen == ()
        return
    assert solution.termination is Termination.optimal
    assert solution.objective == pytest.approx(truth[0], abs=1e-7)
    assert solution.bound <= solution.objective
    check(problem, solution.chosen)


@given(small_problems())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_equals_exhaustive_search(problem):
    assert_equals_enumeration(problem)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(small_problems())
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
def test_equals_exhaustive_search_at_length(problem):
    assert_equals_enumeration(problem)
