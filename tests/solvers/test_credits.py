"""Credits: what two choices save together, in every way to search, against every selection of small problems."""

import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selection_problems import best_by_enumeration, covers, random_problem, small_problems, sums

from solvers import (
    Credit,
    InvalidProblem,
    InvalidSelection,
    Limit,
    SelectionProblem,
    Termination,
    beam_search,
    check,
    evolutionary,
    explain,
    fastest,
    frontier,
    random_search,
    solve,
    solve_diverse,
    violations,
)
from solvers.credits import optimistic

# Layers 0 … 2 in fp32 (even) and in int8 (odd), and one int8 choice for layers 1 and 2 together.
INT8 = {
    "layers": 3,
    "loss": [0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.5],
    "first": [0, 0, 1, 1, 2, 2, 1],
    "span": [1, 1, 1, 1, 1, 1, 2],
    "costs": {"ms": [2.0, 1.5, 2.0, 1.5, 2.0, 1.5, 2.5]},
}
BORDERS = (
    Credit(producers=(1,), consumers=(3, 6), amounts={"ms": 0.4}),
    Credit(producers=(3,), consumers=(5,), amounts={"ms": 0.4}),
)


def int8_network(upper: float, **changes) -> SelectionProblem:
    return SelectionProblem(**{**INT8, "limits": {"ms": Limit(upper=upper)}, "credits": BORDERS, **changes})


def test_neighbours_save_what_their_borders_cost():
    whole = solve(int8_network(3.7), gap=0.0)
    assert whole.chosen == (1, 3, 5)
    assert whole.costs["ms"] == pytest.approx(3 * 1.5 - 2 * 0.4)
    assert whole.objective == pytest.approx(0.3)
    assert solve(int8_network(3.7, credits=())).termination is Termination.infeasible


def test_a_span_earns_at_its_own_border():
    found = fastest(int8_network(9.0), "ms")
    assert found.chosen == (1, 6)
    assert found.objective == pytest.approx(1.5 + 2.5 - 0.4) == found.costs["ms"]


def test_a_credit_counts_once_and_needs_both_sides():
    problem = int8_network(9.0)
    assert sums(problem, (1, 2, 5))["ms"] == 5.0
    check(problem, (1, 2, 5), costs={"ms": 5.0})
    check(problem, (1, 3, 5), costs={"ms": 3.7})


def test_distant_layers_share_a_credit():
    far = Credit(producers=(0,), consumers=(4,), amounts={"ms": 1.0})
    assert solve(int8_network(5.0, credits=(far,)), gap=0.0).chosen == (0, 2, 4)


def test_a_loss_may_fall_too():
    better = Credit(producers=(1,), consumers=(3, 6), loss=0.3)
    found = solve(int8_network(9.0, credits=(better,)), gap=0.0)
    assert found.chosen == (1, 3, 4)
    assert found.objective == pytest.approx(-0.1)


def test_a_lower_limit_cannot_leave_a_credit_out():
    limits = {"ms": Limit(lower=3.8, upper=4.6)}
    problem = int8_network(0.0, limits=limits, forbidden=(0, 2, 4, 6))
    assert solve(problem).termination is Termination.infeasible
    assert solve(replace(problem, credits=())).chosen == (1, 3, 5)


def test_a_lower_limit_excludes_a_whole_network_of_int8_at_once():
    """More selections than the search excludes one by one."""
    problem = random_problem(5, 6, seed=0, credit=0.5)
    slower = 1e-3 * (np.arange(problem.size) % 6)  # and of more loss, so that none dominates
    fp32 = np.arange(problem.size) % 2 == 0
    lower, costs = {"cost0": Limit(lower=4.0)}, {"cost0": 1.0 + slower}
    given = replace(problem, loss=slower + fp32, costs=costs, limits=lower)
    with mock.patch("solvers.cover.OPEN_CREDITS", 0):  # the program alone
        assert solve(given, gap=0.0).objective == pytest.approx(best_by_enumeration(given)[0])


def test_what_earns_a_credit_does_not_dominate_under_a_lower_limit():
    problem = SelectionProblem(
        layers=2,
        loss=[0.0, 0.5, 0.0],
        first=[0, 0, 1],
        span=[1, 1, 1],
        costs={"ms": [1.0, 1.0, 1.0]},
        limits={"ms": Limit(lower=2.0)},
        credits=(Credit(producers=(0,), consumers=(2,), amounts={"ms": 0.5}),),
    )
    assert solve(problem).chosen == (1, 2)


@pytest.mark.parametrize("search", [random_search, evolutionary, lambda problem: beam_search(problem, "ms")])
@pytest.mark.parametrize("sides", [((0,), (1,)), ((1,), (0,))])
def test_what_only_a_credit_makes_fit_is_not_given_up_early(search, sides):
    problem = SelectionProblem(
        layers=2,
        loss=[0.0, 0.0],
        first=[0, 1],
        span=[1, 1],
        costs={"ms": [1.0, 1.0]},
        limits={"ms": Limit(upper=1.5)},
        credits=(Credit(producers=sides[0], consumers=sides[1], amounts={"ms": 0.5}),),
    )
    assert search(problem).chosen == (0, 1)


def test_the_check_refuses_a_wrong_cost():
    problem = int8_network(3.7)
    for wrong in (4.5, 3.6, 3.7 + 1e-7, float("nan")):
        with pytest.raises(InvalidSelection, match=r"ms sums to 3\.7, not to"):
            check(problem, (1, 3, 5), costs={"ms": wrong})
    with pytest.raises(InvalidProblem, match="No cost 'watts'"):
        check(problem, (1, 3, 5), costs={"watts": 1.0})
    assert violations(problem, (1, 3, 4)) == ["ms sums to 4.6, above its limit 3.7"]


@pytest.mark.parametrize(
    ("credit", "message"),
    [
        ({"amounts": {"ms": -0.1}}, r"'border' lowers ms by -0\.1; expected a finite number of at least 0"),
        ({"amounts": {"ms": float("nan")}}, "'border' lowers ms by nan; expected a finite"),
        ({"amounts": {"ms": float("inf")}}, "'border' lowers ms by inf; expected a finite"),
        ({"loss": -1.0}, "'border' lowers loss by -1; expected a finite"),
        ({"producers": (1, 1)}, "'border' names choice 1 twice"),
        ({"producers": (1, 3)}, "'border' names choice 3 twice. Name each once"),
        ({"producers": (7,)}, "Credit 'border' names the choice 7; expected 0 to 6"),
        ({"consumers": (-1,)}, "Credit 'border' names the choice -1; expected 0 to 6"),
        ({"amounts": {"watts": 0.1}}, "Credit 'border' lowers 'watts', but the costs are: ms"),
        ({"consumers": (3, 5)}, "The consumers of credit 'border' share no layer"),
    ],
)
def test_contradictions_are_refused(credit, message):
    with pytest.raises(InvalidProblem, match=message):
        int8_network(9.0, credits=(Credit(**{"producers": (1,), "consumers": (3,), "name": "border", **credit}),))


@given(small_problems())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_bounds_are_never_above_the_truth(problem):
    optimist = {name: optimistic(problem, name) for name in problem.costs}
    for chosen in itertools.islice(covers(problem), 100):
        truth = sums(problem, chosen)
        for name, values in optimist.items():
            assert values[list(chosen)].sum() <= truth[name] + 1e-9 * np.abs(values).max()


@given(small_problems())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_diverse_one_is_the_best_of_what_is_left(problem):
    found = solve_diverse(problem, count=3, gap=0.0, further_gap=0.0)
    valid = sorted((sums(problem, c)["loss"], c) for c in covers(problem) if not violations(problem, c))
    assert [s.objective for s in found] == pytest.approx([loss for loss, _ in valid[:3]], abs=1e-7)
    for solution in found:
        check(problem, solution.chosen, costs=solution.costs)


@given(small_problems())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_fastest_is_the_fastest(problem):
    for name in list(problem.costs)[:1]:
        found = fastest(problem, name, gap=0.0)
        unlimited = replace(problem, limits={**problem.limits, name: replace(problem.limits[name], upper=None)})
        reachable = [sums(problem, c)[name] for c in covers(problem) if not violations(unlimited, c)]
        assert found.found == bool(reachable)
        if reachable:
            scale = float(np.abs(problem.costs[name]).max())
            assert found.objective == pytest.approx(min(reachable), abs=1e-9 * scale)
            assert found.costs["loss"] == pytest.approx(sums(problem, found.chosen)["loss"])


@pytest.mark.parametrize("seed", range(3))
def test_larger_tables_equal_enumeration(seed):
    problem = random_problem(5, 5, seed=seed, costs=2, share=0.8, credit=0.15)
    truth = best_by_enumeration(problem)
    found = solve(problem, gap=0.0)
    assert truth[0] < best_by_enumeration(replace(problem, credits=()))[0] - 1e-3
    assert found.objective == pytest.approx(truth[0])
    check(problem, found.chosen, costs=found.costs)


def test_the_frontier_equals_enumeration():
    problem = random_problem(5, 5, seed=0, credit=0.2)
    points = frontier(problem, "cost0", points=12, gap=0.0)
    assert len(points) > 6
    every = [sums(problem, c) for c in covers(problem)]
    assert points[0].costs["cost0"] == pytest.approx(min(one["cost0"] for one in every))
    for point in points:
        within = [one["loss"] for one in every if one["cost0"] <= point.costs["cost0"] + 1e-9]
        assert point.objective == pytest.approx(min(within))


def test_an_explanation_counts_credits():
    found = explain(int8_network(3.5))
    assert found.conflict == ("ms",)
    assert found.needed["ms"] == pytest.approx(3.6) == found.reachable["ms"]


def test_a_credit_without_a_side_or_an_amount_changes_nothing():
    problem = int8_network(4.6)
    idle = (Credit(producers=(), consumers=(3,), amounts={"ms": 1.0}), Credit(producers=(1,), consumers=(3,)))
    assert solve(replace(problem, credits=BORDERS + idle)).chosen == solve(problem).chosen


@pytest.mark.parametrize("adversarial", [False, True])
def test_a_deep_network_is_solved_to_a_proof(adversarial):
    problem = random_problem(40, 20, seed=1, share=0.3, adversarial=adversarial, credit=0.1)
    found = solve(problem)
    assert found.termination is Termination.optimal
    assert found.objective < 0.99 * solve(replace(problem, credits=())).objective


@given(small_problems(), st.integers(0, 2))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_credits_beyond_the_states_of_a_path_are_as_exact(problem, limit):
    with mock.patch("solvers.cover.OPEN_CREDITS", limit):
        found = solve(problem, gap=0.0)
    truth = best_by_enumeration(problem)
    assert found.found == (truth is not None)
    if truth is not None:
        assert found.objective == pytest.approx(truth[0], abs=1e-7)
