import itertools
from dataclasses import replace

import pytest
from selection_problems import covers, random_problem

from solvers import Solution, Termination, solve, solve_diverse


def differing(problem, one, other):
    return problem.layers - sum(int(problem.span[c]) for c in set(one) & set(other))


def test_they_differ_and_come_in_order():
    problem = random_problem(8, 6, seed=0)
    found = solve_diverse(problem, count=6, minimum_distance=3)
    assert len(found) == 6
    assert [s.objective for s in found] == sorted(s.objective for s in found)
    for one, other in itertools.combinations(found, 2):
        assert differing(problem, one.chosen, other.chosen) >= 3


def test_the_papers_overlap():
    problem = random_problem(10, 5, seed=1)
    found = solve_diverse(problem, count=4, overlap=0.7)
    assert len(found) == 4
    for one, other in itertools.combinations(found, 2):
        assert differing(problem, one.chosen, other.chosen) >= 3  # 10 − floor(0.7 · 10)


def test_of_ninety_layers_seven_tenths_are_63(monkeypatch):
    asked = []
    nothing = Solution(termination=Termination.no_solution, runtime_s=0.0)

    def solving(problem, **options):
        asked.extend(limit.minimum for limit in problem.distances)
        return solve(problem, **options) if not problem.distances else nothing

    monkeypatch.setattr("solvers.diverse.solve", solving)
    solve_diverse(replace(random_problem(90, 2, seed=0), limits={}), count=2, overlap=0.7)
    assert asked == [27]


def test_each_is_the_best_of_what_is_left():
    problem = random_problem(4, 4, seed=7, share=0.9)
    found = solve_diverse(problem, count=5, minimum_distance=2, gap=0.0, further_gap=0.0)
    taken = []
    assert len(found) == 5
    for solution in found:
        left = [
            float(problem.loss[list(c)].sum())
            for c in covers(problem)
            if problem.costs["cost0"][list(c)].sum() <= problem.limits["cost0"].upper
            and all(differing(problem, c, t) >= 2 for t in taken)
        ]
        assert solution.objective == pytest.approx(min(left))
        taken.append(solution.chosen)


def test_a_cap_on_the_loss_ends_it():
    problem = random_problem(6, 6, seed=2)
    best = solve(problem).objective
    found = solve_diverse(problem, count=50, max_loss=1.05 * best)
    assert 1 <= len(found) < 50
    assert all(s.objective <= 1.05 * best for s in found)
    assert all(s.termination is Termination.optimal for s in found)


def test_however_much_they_may_share_they_are_not_the_same():
    found = solve_diverse(random_problem(8, 6, seed=0), count=5, overlap=1.0)
    assert len({solution.chosen for solution in found}) == len(found) == 5
