from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from selection_problems import best_by_enumeration, random_problem, small_problems

from solvers import Limit, SelectionProblem, Termination, frontier, solve


def test_every_point_is_optimal_for_its_budget_and_unique():
    problem = random_problem(8, 12, seed=3)
    points = frontier(problem, "cost0", points=20, gap=0.0)
    costs = [point.costs["cost0"] for point in points]
    losses = [point.objective for point in points]
    assert len(points) > 10
    assert costs == sorted(set(costs))
    assert losses == sorted(set(losses), reverse=True)
    for point in points:
        limited = SelectionProblem(
            layers=problem.layers,
            loss=problem.loss,
            first=problem.first,
            span=problem.span,
            costs=problem.costs,
            limits={"cost0": Limit(upper=point.costs["cost0"])},
        )
        assert solve(limited, gap=0.0).objective == pytest.approx(point.objective, abs=1e-9)


def test_it_reaches_from_the_fastest_to_the_best():
    problem = random_problem(5, 6, seed=1)
    points = frontier(problem, "cost0", points=9)
    table = problem.costs["cost0"].reshape(5, 6)
    assert points[0].costs["cost0"] == pytest.approx(table.min(axis=1).sum())
    assert points[-1].objective == pytest.approx(problem.loss.reshape(5, 6).min(axis=1).sum())


def test_other_limits_are_held():
    problem = random_problem(6, 8, seed=5, costs=2, share=0.6)
    points = frontier(problem, "cost0", points=10)
    assert points
    assert all(point.costs["cost1"] <= problem.limits["cost1"].upper * (1 + 1e-9) for point in points)


def test_nothing_where_nothing_fits():
    problem = SelectionProblem(
        layers=1,
        loss=[0.0],
        first=[0],
        span=[1],
        costs={"a": [1.0], "b": [1.0]},
        limits={"b": Limit(upper=0.5)},
    )
    assert frontier(problem, "a") == []


@given(small_problems())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_points_equal_enumeration(problem):
    for name in list(problem.costs)[:1]:
        points = frontier(problem, name, points=4, gap=0.0)
        unlimited = {**problem.limits, name: replace(problem.limits[name], upper=None)}
        assert points or best_by_enumeration(replace(problem, limits=unlimited)) is None
        for point in points:
            limits = {**problem.limits, name: Limit(lower=problem.limits[name].lower, upper=point.costs[name])}
            assert point.termination is Termination.optimal
            truth = best_by_enumeration(replace(problem, limits=limits))
            assert truth is not None
            assert point.objective == pytest.approx(truth[0], abs=1e-6 + 1e-9 * float(np.abs(problem.loss).max()))


def test_a_lower_limit_is_held():
    problem = SelectionProblem(
        layers=1,
        loss=[0.0, 0.5, 0.9],
        first=[0, 0, 0],
        span=[1, 1, 1],
        costs={"ms": [3.0, 2.0, 1.0]},
        limits={"ms": Limit(lower=1.5)},
    )
    assert [point.costs["ms"] for point in frontier(problem, "ms")] == [2.0, 3.0]
