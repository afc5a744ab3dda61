"""What every way to search promises; each is a subclass that names it."""

from dataclasses import replace

import numpy as np
import pytest
from selection_problems import best_by_enumeration, random_problem, sums

from solvers import (
    InvalidProblem,
    Limit,
    SelectionProblem,
    Solution,
    Termination,
    beam_search,
    check,
    evolutionary,
    exhaustive,
    greedy,
    random_search,
    single_shot,
    solve,
    solve_diverse,
)


class SearchContract:
    slack = 0.0  # how far above the optimum it may end, relative, on the problems below

    def search(self, problem: SelectionProblem, objective=None) -> Solution:
        raise NotImplementedError

    @pytest.mark.parametrize("seed", range(4))
    def test_what_it_finds_is_valid_and_near_the_best(self, seed):
        problem = random_problem(6, 5, seed=seed, share=0.8)
        solution = self.search(problem)
        truth = best_by_enumeration(problem)
        check(problem, solution.chosen)
        assert solution.objective == pytest.approx(problem.loss[list(solution.chosen)].sum())
        assert truth[0] - 1e-9 <= solution.objective <= truth[0] * (1 + self.slack) + 1e-9

    @pytest.mark.parametrize("seed", range(4))
    def test_credits_count(self, seed):
        problem = random_problem(6, 5, seed=seed, share=0.6, credit=0.15)
        solution = self.search(problem)
        truth = best_by_enumeration(problem)
        check(problem, solution.chosen, costs=solution.costs)
        assert solution.objective == pytest.approx(sums(problem, solution.chosen)["loss"])
        assert truth[0] - 1e-9 <= solution.objective <= truth[0] * (1 + self.slack) + 1e-9

    def test_nothing_is_chosen_where_nothing_fits(self):
        problem = replace(random_problem(4, 3, seed=0), limits={"cost0": Limit(upper=0.01)})
        solution = self.search(problem)
        assert not solution.found
        assert solution.chosen == ()
        assert solution.termination in (Termination.no_solution, Termination.infeasible)

    def test_only_a_proof_is_called_optimal(self):
        solution = self.search(random_problem(5, 4, seed=9))
        if solution.termination is Termination.optimal:
            assert solution.bound > -np.inf
        else:
            assert solution.termination is Termination.feasible_at_limit


class CustomObjective:
    """For those that take an objective which is no sum."""

    def test_an_objective_that_is_no_sum(self):
        problem = random_problem(4, 4, seed=4, share=1.2)

        def objective(chosen):
            losses = problem.loss[list(chosen)]
            return float(losses.sum() + losses[:-1] @ losses[1:])  # neighbours make each other worse

        solution = self.search(problem, objective)
        assert solution.objective == pytest.approx(objective(solution.chosen))
        assert solution.objective <= 1.5 * exhaustive(problem, objective=objective).objective


class TestExhaustive(SearchContract):
    def search(self, problem, objective=None):
        return exhaustive(problem, objective=objective)

    def test_refuses_what_is_too_large(self):
        with pytest.raises(InvalidProblem, match=r"the limit is 2000000. Use solve"):
            exhaustive(random_problem(20, 10, seed=0))


class TestProgram(SearchContract):
    slack = 1e-4

    def search(self, problem, objective=None):
        return solve(problem)


class TestRandom(SearchContract, CustomObjective):
    slack = 0.8

    def search(self, problem, objective=None):
        return random_search(problem, objective=objective, seed=1)


class TestGreedy(SearchContract, CustomObjective):
    slack = 0.5

    def search(self, problem, objective=None):
        return greedy(problem, "cost0", objective=objective)


class TestBeam(SearchContract, CustomObjective):
    slack = 0.1

    def search(self, problem, objective=None):
        return beam_search(problem, "cost0", objective=objective)


class TestEvolutionary(SearchContract, CustomObjective):
    slack = 0.05

    def search(self, problem, objective=None):
        return evolutionary(problem, objective=objective, generations=50, seed=1)

    def test_a_warm_start_is_never_lost(self):
        problem = random_problem(20, 20, seed=3, share=0.5)
        start = [s.chosen for s in solve_diverse(problem, count=3)]
        found = evolutionary(problem, warm_start=start, generations=2, seed=0)
        assert found.objective <= solve(problem).objective + 1e-9

    def test_the_same_seed_gives_the_same(self):
        problem = random_problem(8, 8, seed=6)
        runs = [evolutionary(problem, generations=10, seed=5).chosen for _ in range(2)]
        assert runs[0] == runs[1]


class TestSingleShot:
    def test_only_the_simple_choices_are_taken(self):
        problem = random_problem(5, 4, seed=0, share=1.0)
        simple = [c for c in range(problem.size) if c % 4 in (0, 1)]
        found = single_shot(problem, simple)
        assert set(found.chosen) <= set(simple)
        others = tuple(c for c in range(problem.size) if c not in simple)
        assert found.objective == pytest.approx(best_by_enumeration(replace(problem, forbidden=others))[0])


def test_greedy_keeps_what_is_fixed_and_avoids_what_is_forbidden():
    problem = SelectionProblem(
        layers=2,
        loss=[0.0, 1.0, 0.0, 1.0, 0.5],
        first=[0, 0, 1, 1, 1],
        span=[1] * 5,
        costs={"ms": [3.0, 1.0, 3.0, 1.0, 2.0]},
        limits={"ms": Limit(upper=5.0)},
        fixed=(1,),
        forbidden=(2,),
    )
    assert greedy(problem, "ms").chosen == (1, 4) == solve(problem).chosen


def test_a_cost_that_is_not_there_is_told():
    for search in (greedy, beam_search):
        with pytest.raises(InvalidProblem, match="No cost 'watts'"):
            search(random_problem(3, 3, seed=0), "watts")
