"""Random problems, and every selection of a small one, written without any of the package's own search."""

import itertools
from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from solvers import CountLimit, Credit, DistanceLimit, Limit, SelectionProblem, violations


def covers(problem: SelectionProblem, layer: int = 0) -> Iterator[tuple[int, ...]]:
    """All exact covers of the layers from `layer` on."""
    if layer == problem.layers:
        yield ()
        return
    for choice in range(problem.size):
        if problem.first[choice] == layer:
            for rest in covers(problem, layer + int(problem.span[choice])):
                yield (choice, *rest)


def best_by_enumeration(problem: SelectionProblem) -> tuple[float, tuple[int, ...]] | None:
    """The least loss of any valid selection and one that has it; None where nothing is valid."""
    valid = ((sums(problem, c)["loss"], c) for c in covers(problem) if not violations(problem, c))
    return min(valid, default=None)


def sums(problem: SelectionProblem, chosen: tuple[int, ...]) -> dict[str, float]:
    """The loss and every cost of a selection, its credits subtracted."""
    found = {name: float(sum(cost[c] for c in chosen)) for name, cost in problem.costs.items()}
    found["loss"] = float(sum(problem.loss[c] for c in chosen))
    for credit in problem.credits:
        if set(credit.producers) & set(chosen) and set(credit.consumers) & set(chosen):
            for name, amount in {**credit.amounts, "loss": credit.loss}.items():
                found[name] -= amount
    return found


def random_problem(
    layers: int,
    operations: int,
    *,
    seed: int,
    costs: int = 1,
    share: float = 0.5,
    adversarial: bool = False,
    credit: float = 0.0,
) -> SelectionProblem:
    """A table of random losses and costs; limits at `share` of the sum of the median costs.

    With a `credit`, neighbours of odd number save so much of every cost, as do those of two layers further.
    """
    random = np.random.default_rng(seed)
    tables = {f"cost{k}": random.uniform(0.05, 1.0, (layers, operations)) for k in range(costs)}
    loss = random.uniform(0.0, 1.0, (layers, operations))
    if adversarial:
        loss = 1.0 - tables["cost0"] + random.normal(0.0, 1e-3, (layers, operations))
    limits = {name: Limit(upper=share * float(np.median(t, axis=1).sum())) for name, t in tables.items()}
    odd = [tuple(range(i * operations + 1, (i + 1) * operations, 2)) for i in range(layers)]
    pairs = [(i, i + step) for step in (1, 3) for i in range(layers - step)] if credit else []
    credits = [Credit(producers=odd[i], consumers=odd[j], amounts=dict.fromkeys(tables, credit)) for i, j in pairs]
    return SelectionProblem.from_tables(loss, tables, limits=limits, credits=credits)


@st.composite
def _credits(draw: st.DrawFn, places: list[tuple[int, int]], costs: list[tuple[str, float]]) -> Credit:
    """Sides that share a layer each, anywhere in the network."""
    sides: list[tuple[int, ...]] = []
    for _ in range(2):
        layer = draw(st.sampled_from([first for first, _ in places]))
        there = [
            c for c, (first, span) in enumerate(places) if first <= layer < first + span and c not in sum(sides, ())
        ]
        sides.append(tuple(draw(st.lists(st.sampled_from(there), max_size=4, unique=True))) if there else ())
    amount = st.one_of(st.integers(0, 6).map(float), st.floats(0.0, 3.0).map(lambda x: round(x, 3)))
    amounts = {name: scale * draw(amount) for name, scale in costs if draw(st.booleans())}
    return Credit(producers=sides[0], consumers=sides[1], amounts=amounts, loss=draw(amount))


@st.composite
def small_problems(draw: st.DrawFn) -> SelectionProblem:
    """At most 4 layers and 14 choices: budgets, spans, ties, pins, counts, distances, credits; often infeasible."""
    layers = draw(st.integers(1, 4))
    places = [(first, 1) for first in range(layers)]
    spans = [(first, span) for first in range(layers) for span in range(1, layers - first + 1)]
    places += draw(st.lists(st.sampled_from(spans), min_size=1, max_size=10))
    size = len(places)
    # Few distinct numbers, so that equal sums, equal choices and limits met exactly are common.
    number = st.one_of(st.integers(-3, 12).map(float), st.floats(-1.0, 4.0).map(lambda x: round(x, 3)))
    numbers = st.lists(number, min_size=size, max_size=size)
    indices = st.integers(0, size - 1)
    scales = draw(st.lists(st.sampled_from([1e-3, 1.0, 1e8]), max_size=3))
    costs = {f"cost{k}": scale * np.array(draw(numbers)) for k, scale in enumerate(scales)}
    limits = {}
    for (name, _), scale in zip(costs.items(), scales, strict=True):
        upper = draw(st.one_of(st.none(), st.integers(0, 12 * layers)))
        lower = draw(st.one_of(st.none(), st.none(), st.integers(-3, upper if upper is not None else 8)))
        limits[name] = Limit(
            lower=None if lower is None else lower * scale, upper=None if upper is None else upper * scale
        )
    problem = SelectionProblem(
        layers=layers,
        loss=np.array(draw(numbers)),
        first=np.array([first for first, _ in places]),
        span=np.array([span for _, span in places]),
        costs=costs,
        limits=limits,
    )
    every = list(itertools.islice(covers(problem), 200))
    forbidden = draw(st.sets(indices, max_size=2))
    fixed = draw(st.sets(indices, max_size=1)) - forbidden
    count = st.builds(
        lambda members, low, more: CountLimit(choices=tuple(sorted(members)), lower=low, upper=more),
        st.sets(indices, min_size=1),
        st.sampled_from([None, 0, 1]),
        st.sampled_from([None, 1, 2]),
    )
    distance = st.builds(
        lambda chosen, minimum: DistanceLimit(chosen=chosen, minimum=minimum),
        st.sampled_from(every),
        st.integers(0, layers),
    )
    return SelectionProblem(
        layers=layers,
        loss=problem.loss,
        first=problem.first,
        span=problem.span,
        costs=costs,
        limits=limits,
        fixed=tuple(sorted(fixed)),
        forbidden=tuple(sorted(forbidden)),
        ties=tuple(tuple(sorted(tie)) for tie in draw(st.lists(st.sets(indices, min_size=2, max_size=3), max_size=2))),
        counts=tuple(draw(st.lists(count, max_size=2))),
        distances=tuple(draw(st.lists(distance, max_size=2))),
        credits=tuple(draw(st.lists(_credits(places, list(zip(costs, scales, strict=True))), max_size=4))),
    )
