from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from selection_problems import best_by_enumeration, random_problem, small_problems

from solvers import Limit, SelectionProblem, SolverUnavailable, Termination, available_solvers, check, solve


def assert_equals_enumeration(problem: SelectionProblem, solver: str = "HiGHS") -> None:
    truth = best_by_enumeration(problem)
    if truth is None:  # whatever gap is asked for
        assert solve(problem, solver=solver).termination is Termination.infeasible
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
@settings(max_examples=2000, derandomize=False, deadline=None, suppress_health_check=list(HealthCheck))
def test_equals_exhaustive_search_at_length(problem):
    assert_equals_enumeration(problem)


def test_a_time_limit_never_claims_a_proof():
    hard = random_problem(60, 60, seed=0, costs=3, share=0.5, adversarial=True)
    solution = solve(hard, time_limit_s=0.05, gap=0.0)
    assert solution.termination in (Termination.feasible_at_limit, Termination.no_solution)
    if solution.found:
        check(hard, solution.chosen)
        assert solution.bound <= solution.objective


@pytest.mark.parametrize("seed", range(3))
def test_adversarial_losses_are_solved_within_the_stated_gap(seed):
    problem = random_problem(46, 100, seed=seed, adversarial=True)
    solution = solve(problem, gap=1e-4)
    assert solution.termination is Termination.optimal
    assert solution.gap <= 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_one_huge_loss_hides_no_others(seed):
    """As of an operation that diverged and is the fastest."""
    random = np.random.default_rng(seed)
    loss, ms = random.uniform(0, 1e-2, (8, 6)), random.uniform(0.1, 1, (8, 6))
    loss[0, 5], ms[0, 5] = 1e8, 0.01
    problem = SelectionProblem.from_tables(loss, {"ms": ms}, limits={"ms": Limit(upper=3.0)})
    assert solve(problem, gap=0.0).objective == pytest.approx(
        solve(replace(problem, forbidden=(5,)), gap=0.0).objective
    )


def test_the_same_seed_gives_the_same():
    problem = random_problem(30, 30, seed=1, adversarial=True)
    assert solve(problem, seed=4).chosen == solve(problem, seed=4).chosen


def test_an_unknown_solver_names_those_there_are():
    with pytest.raises(SolverUnavailable, match=r"Solvers available: .*HiGHS"):
        solve(random_problem(2, 2, seed=0), solver="GUROBBI")


@pytest.mark.skipif("CBC" not in available_solvers(), reason="CBC is not installed: this test did not run")
@given(small_problems())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_cbc_equals_exhaustive_search(problem):
    assert_equals_enumeration(problem, solver="CBC")


def test_nothing_is_written_to_the_output(capfd):
    solve(random_problem(4, 4, seed=0, costs=2))
    assert capfd.readouterr().out == ""
