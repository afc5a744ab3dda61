"""Paths against every cover, with weights of any sign."""

import itertools
from unittest import mock

import numpy as np
import pytest
from selection_problems import covers

from solvers import Credit, SelectionProblem
from solvers.credits import columns_of

LAYERS = 5


def random_cover(seed: int, credits: int):
    """Choices of spans 1 … 3, and credits whose sides lie anywhere."""
    random = np.random.default_rng(seed)
    first = random.integers(0, LAYERS, 18)
    span = np.minimum(random.integers(1, 4, 18), LAYERS - first)
    both = []
    for _ in range(credits):
        members = random.permutation(18)
        sides = []
        for layer, part in zip(random.integers(0, LAYERS, 2), (members[:9], members[9:]), strict=True):
            sides.append([c for c in part if first[c] <= layer < first[c] + span[c]])
        both.append(Credit(producers=sides[0], consumers=sides[1], loss=1.0))
    problem = SelectionProblem(layers=LAYERS, loss=np.zeros(18), first=first, span=span, credits=both)
    columns, cover, _ = columns_of(problem, np.arange(18))
    return problem, cover, columns, random.normal(size=len(columns))


def columns_held(problem, chosen, columns) -> list[int]:
    """The choices of a cover and the credits that it earns."""
    earned = [
        place
        for place, number in enumerate(columns.tolist())
        if number >= problem.size
        for credit in [problem.credits[number - problem.size]]
        if set(chosen) & set(credit.producers) and set(chosen) & set(credit.consumers)
    ]
    return [*chosen, *earned]


@pytest.mark.parametrize(("seed", "credits"), itertools.product(range(12), [0, 3, 8]))
def test_paths_equal_every_cover(seed, credits):
    with mock.patch("solvers.cover.OPEN_CREDITS", 100):
        problem, cover, columns, weights = random_cover(seed, credits)
    every = [columns_held(problem, chosen, columns) for chosen in covers(problem)]
    assert cover.exact[problem.size :].all()
    value, path = cover.path(weights)
    assert value == pytest.approx(min((weights[held].sum() for held in every), default=np.inf))
    assert sorted(path) in [sorted(held) for held in every] or not every
    through = cover.through(weights)
    for column in range(len(columns)):
        truth = min((weights[held].sum() for held in every if column in held), default=np.inf)
        assert through[column] == pytest.approx(truth)


@pytest.mark.parametrize("seed", range(12))
def test_free_columns_bound_every_cover_from_below(seed):
    with mock.patch("solvers.cover.OPEN_CREDITS", 1):
        problem, cover, columns, weights = random_cover(seed, 8)
    assert not cover.exact[problem.size :].all()
    through = cover.through(weights)
    value, _ = cover.path(weights)
    for chosen in covers(problem):
        held = columns_held(problem, chosen, columns)
        assert value <= weights[held].sum() + 1e-12
        assert (through[held] <= weights[held].sum() + 1e-12).all()
