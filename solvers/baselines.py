"""Other ways to search, under the interface of `solve`: for comparison, and for objectives that are not a sum.

Each takes `objective`, a function of the chosen indices; without it the summed loss is what they look for. None of
them proves anything, save `exhaustive` and `single_shot` (which proves it for its own, smaller space).
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from math import inf

import numpy as np

from .credits import Earnings, amount_of, optimistic
from .errors import InvalidProblem
from .ilp import solve
from .problem import SelectionProblem
from .reduction import reduced
from .solution import Solution, Termination
from .verify import earned, totals, violations

Objective = Callable[[Sequence[int]], float]
LARGEST = 2_000_000  # covers that `exhaustive` is ready to visit


class _Search:
    """The best valid selection seen, and the pieces that every heuristic needs."""

    def __init__(self, problem: SelectionProblem, objective: Objective | None, seed: int, time_limit_s: float) -> None:
        self.problem, self.random = problem, np.random.default_rng(seed)
        self.objective = objective or (lambda chosen: self.sum_of(None, chosen))
        self.start_s = time.monotonic()
        self.deadline_s = self.start_s + time_limit_s
        self.best: tuple[float, tuple[int, ...]] = (inf, ())
        # A custom objective replaces the losses, which then do not show dominated choices.
        self.kept = reduced(problem) if objective is None else np.arange(problem.size)
        self.at: list[list[int]] = [[] for _ in range(problem.layers)]
        for choice in self.kept.tolist():
            self.at[int(problem.first[choice])].append(choice)
        self.least = {
            name: _least(problem, optimistic(problem, name)) for name in problem.costs if name in problem.limits
        }
        self.earnings = Earnings(problem)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.deadline_s

    def sum_of(self, name: str | None, chosen: Sequence[int]) -> float:
        """A cost of a selection, or its loss where `name` is None."""
        values = self.problem.loss if name is None else self.problem.costs[name]
        saved = sum(amount_of(credit, name) for credit in earned(self.problem, chosen))
        return float(values[list(chosen)].sum()) - saved

    def with_choice(self, name: str | None, choice: int, others: Collection[int]) -> float:
        """How much a cost or the loss grows with one more choice beside `others`."""
        values = self.problem.loss if name is None else self.problem.costs[name]
        return float(values[choice]) - self.earnings.of(choice, others, name)

    def candidate(self, chosen: Sequence[int]) -> float:
        """The objective of a selection, infinite where it is not valid; the best is remembered."""
        if violations(self.problem, chosen):
            return inf
        value = self.objective(chosen)
        if value < self.best[0]:
            self.best = (value, tuple(int(choice) for choice in chosen))
        return value

    def may_fit(self, spent: dict[str, float], layer: int) -> bool:
        """True if the cheapest rest keeps a partial selection within its upper limits."""
        return all(
            limit.upper is None or spent[name] + self.least[name][layer] <= limit.upper * (1 + 1e-9) + 1e-12
            for name, limit in self.problem.limits.items()
        )

    def extend(self, chosen: tuple[int, ...], spent: dict[str, float], layer: int) -> Iterator[tuple]:
        """Partial selections with one choice more that may still fit: choices, costs, next layer."""
        for choice in self.at[layer]:
            total = {name: spent[name] + self.with_choice(name, choice, chosen) for name in spent}
            after = layer + int(self.problem.span[choice])
            if self.may_fit(total, after):
                yield (*chosen, choice), total, after

    def complete(self, chosen: tuple[int, ...] = (), layer: int = 0) -> tuple[int, ...] | None:
        """A random selection that begins with `chosen` and keeps its budgets, or None from a dead end."""
        spent = {name: self.sum_of(name, chosen) for name in self.least}
        while layer < self.problem.layers:
            options = list(self.extend(chosen, spent, layer))
            if not options:
                return None
            chosen, spent, layer = options[self.random.integers(len(options))]
        return chosen

    def solution(self, termination: Termination | None = None, bound: float = -inf) -> Solution:
        value, chosen = self.best
        runtime_s = time.monotonic() - self.start_s
        if not chosen:
            return Solution(termination=termination or Termination.no_solution, runtime_s=runtime_s)
        return Solution(
            termination=termination or Termination.feasible_at_limit,
            chosen=chosen,
            objective=value,
            bound=bound,
            costs=totals(self.problem, chosen)[1],
            runtime_s=runtime_s,
        )


def _least(problem: SelectionProblem, cost: np.ndarray) -> list[float]:
    """The least cost of covering the layers from each one on."""
    least = [inf] * problem.layers + [0.0]
    for layer in reversed(range(problem.layers)):
        for choice in np.flatnonzero(problem.first == layer):
            least[layer] = min(least[layer], float(cost[choice]) + least[layer + int(problem.span[choice])])
    return least


def random_search(
    problem: SelectionProblem,
    *,
    tries: int = 1000,
    objective: Objective | None = None,
    seed: int = 0,
    time_limit_s: float = 60.0,
) -> Solution:
    """The best of `tries` random selections that keep the budgets."""
    search = _Search(problem, objective, seed, time_limit_s)
    for _ in range(tries):
        if search.over:
            break
        if (chosen := search.complete()) is not None:
            search.candidate(chosen)
    return search.solution()


def greedy(
    problem: SelectionProblem, cost: str, *, objective: Objective | None = None, time_limit_s: float = 60.0
) -> Solution:
    """From the least loss at every layer, swap what loses least per unit of `cost` saved until the limits hold.

    Choices that span several layers are left out: a swap stays within a layer.

    Raises:
        InvalidProblem: there is no such cost.
    """
    problem.require_cost(cost)
    search = _Search(problem, objective, 0, time_limit_s)
    held = {int(problem.first[c]) for c in problem.fixed}
    single = [
        [
            c
            for c in range(problem.size)
            if problem.first[c] == i and problem.span[c] == 1 and c not in problem.forbidden
            if i not in held or c in problem.fixed
        ]
        for i in range(problem.layers)
    ]
    if not all(single):
        return search.solution()
    chosen = [min(options, key=lambda c: float(problem.loss[c])) for options in single]
    # Rounding of credits must not lead round in a circle.
    least = 1e-12 * float(np.abs(problem.costs[cost]).max()) if problem.credits else 0.0
    while search.candidate(chosen) == inf and not search.over:
        swaps = []
        for layer, now in enumerate(chosen):
            others = {*chosen} - {now}
            for c in single[layer]:
                saved = search.with_choice(cost, now, others) - search.with_choice(cost, c, others)
                if saved > least:
                    lost = search.with_choice(None, c, others) - search.with_choice(None, now, others)
                    swaps.append((lost / saved, layer, c))
        if not swaps:
            break
        _, layer, choice = min(swaps)
        chosen[layer] = choice
    return search.solution()


def beam_search(
    problem: SelectionProblem,
    cost: str,
    *,
    width: int = 64,
    objective: Objective | None = None,
    time_limit_s: float = 60.0,
) -> Solution:
    """Layer by layer, keeping the partial selections that are Pareto-best in loss and `cost` (PNAS, as in POPNAS).

    Where more than `width` are Pareto-best they are thinned evenly along the cost. A custom objective judges the
    complete selections only.

    Raises:
        InvalidProblem: there is no such cost.
    """
    problem.require_cost(cost)
    search = _Search(problem, objective, 0, time_limit_s)
    start: dict[str, float] = dict.fromkeys(search.least, 0.0)
    beams: list[list[tuple]] = [[] for _ in range(problem.layers + 1)]
    beams[0] = [((), start, 0.0, 0.0)]
    for layer in range(problem.layers):
        for chosen, spent, loss, paid in _pareto(beams[layer], width):
            for longer, total, after in search.extend(chosen, spent, layer):
                choice = longer[-1]
                beams[after].append(
                    (
                        longer,
                        total,
                        loss + search.with_choice(None, choice, chosen),
                        paid + search.with_choice(cost, choice, chosen),
                    )
                )
        if search.over:
            break
    for chosen, *_ in sorted(beams[problem.layers], key=lambda state: state[2])[: 10 * width]:
        search.candidate(chosen)
    return search.solution()


def _pareto(states: list[tuple], width: int) -> list[tuple]:
    """States that no other beats in both loss and cost, at most `width` of them."""
    kept: list[tuple] = []
    for state in sorted(states, key=lambda s: (s[3], s[2])):
        if not kept or state[2] < kept[-1][2]:
            kept.append(state)
    if len(kept) <= width:
        return kept
    return [kept[round(i)] for i in np.linspace(0, len(kept) - 1, width)]


def evolutionary(
    problem: SelectionProblem,
    *,
    population: int = 64,
    generations: int = 200,
    warm_start: Sequence[Sequence[int]] = (),
    objective: Objective | None = None,
    seed: int = 0,
    time_limit_s: float = 60.0,
) -> Solution:
    """Regularised by age: the better of a few parents is re-drawn from a random layer on, the oldest dies.

    Args:
        warm_start: selections to begin with, for example those of `solve_diverse`.
    """
    search = _Search(problem, objective, seed, time_limit_s)
    living: list[tuple[float, tuple[int, ...]]] = []
    for chosen in warm_start:
        living.append((search.candidate(chosen), tuple(chosen)))
    for _ in range(20 * population):
        if len(living) >= population or search.over:
            break
        if (fresh := search.complete()) is not None:
            living.append((search.candidate(fresh), fresh))
    for _ in range(generations * population if living else 0):
        if search.over:
            break
        drawn = search.random.integers(len(living), size=min(8, len(living)))
        parent = min(living[i] for i in drawn)[1]
        child = _mutated(search, parent)
        if child is not None:
            living.append((search.candidate(child), child))
            if len(living) > population:
                living.pop(0)
    return search.solution()


def _mutated(search: _Search, parent: tuple[int, ...]) -> tuple[int, ...] | None:
    """One choice of the parent replaced by others that cover the same layers; two, where one breaks a budget."""
    problem, child = search.problem, list(parent)
    for _ in range(1 + int(search.random.integers(2))):
        place = int(search.random.integers(len(child)))
        now = child[place]
        same = [c for c in search.at[int(problem.first[now])] if problem.span[c] == problem.span[now] and c != now]
        if same:
            child[place] = same[search.random.integers(len(same))]
    if not violations(problem, child):
        return tuple(child)
    keep = int(search.random.integers(len(parent)))
    return search.complete(parent[:keep], int(problem.first[parent[keep]]))


def exhaustive(problem: SelectionProblem, *, objective: Objective | None = None) -> Solution:
    """Every selection, for small problems.

    Raises:
        InvalidProblem: there are more than two million covers.
    """
    ways = [0] * problem.layers + [1]
    for layer in reversed(range(problem.layers)):
        ways[layer] = sum(ways[layer + int(problem.span[c])] for c in np.flatnonzero(problem.first == layer))
    if ways[0] > LARGEST:
        raise InvalidProblem(f"{ways[0]} covers are too many to visit each; the limit is {LARGEST}. Use solve().")
    search = _Search(problem, objective, 0, inf)
    search.at = [np.flatnonzero(problem.first == layer).tolist() for layer in range(problem.layers)]

    def visit(chosen: tuple[int, ...], layer: int) -> None:
        if layer == problem.layers:
            search.candidate(chosen)
            return
        for choice in search.at[layer]:
            visit((*chosen, choice), layer + int(problem.span[choice]))

    visit((), 0)
    found = bool(search.best[1])
    return search.solution(Termination.optimal if found else Termination.infeasible, bound=search.best[0])


def single_shot(
    problem: SelectionProblem, simple: Sequence[int], *, solver: str = "HiGHS", time_limit_s: float = 60.0
) -> Solution:
    """The best selection of the choices `simple` only: the teacher's own and identity (the paper's single shot)."""
    allowed = set(simple)
    others = tuple(choice for choice in range(problem.size) if choice not in allowed)
    return solve(
        replace(problem, forbidden=tuple(sorted({*problem.forbidden, *others}))),
        solver=solver,
        time_limit_s=time_limit_s,
    )
