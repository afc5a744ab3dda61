"""The check of a selection against its problem: plain Python on purpose, sharing nothing with the solvers it checks."""

from collections.abc import Mapping, Sequence
from math import fsum

from .errors import InvalidSelection
from .problem import Credit, SelectionProblem

# A sum of floats may miss its limit by rounding alone. Relative to the size of what is summed; a millisecond budget
# is thereby held to a picosecond, far below anything that can be measured.
TOLERANCE = 1e-9


def violations(problem: SelectionProblem, chosen: Sequence[int]) -> list[str]:
    """Everything a selection breaks, in words; empty where it is valid.

    >>> problem = SelectionProblem(layers=2, loss=[0, 0], first=[0, 1], span=[1, 1])
    >>> violations(problem, [0])
    ['layer 1 is covered 0 times, expected once']
    """
    broken = []
    selected = [int(choice) for choice in chosen]
    taken = set(selected)
    if len(taken) != len(selected):
        broken.append("a choice is named twice")
    outside = [choice for choice in selected if not 0 <= choice < problem.size]
    if outside:
        return [*broken, f"choice {outside[0]} does not exist"]

    covered = [0] * problem.layers
    for choice in selected:
        start = int(problem.first[choice])
        for layer in range(start, start + int(problem.span[choice])):
            covered[layer] += 1
    broken += [f"layer {i} is covered {times} times, expected once" for i, times in enumerate(covered) if times != 1]

    for name, limit in problem.limits.items():
        parts = _parts(problem, name, selected)
        total, slack = fsum(parts), TOLERANCE * fsum(abs(part) for part in parts)
        if limit.upper is not None and total > limit.upper + slack:
            broken.append(f"{name} sums to {total:.9g}, above its limit {limit.upper:.9g}")
        if limit.lower is not None and total < limit.lower - slack:
            broken.append(f"{name} sums to {total:.9g}, below its limit {limit.lower:.9g}")

    broken += [f"{problem.name_of(c)} is fixed but not chosen" for c in problem.fixed if c not in taken]
    broken += [f"{problem.name_of(c)} is forbidden but chosen" for c in problem.forbidden if c in taken]
    for tie in problem.ties:
        held = [choice in taken for choice in tie]
        if any(held) and not all(held):
            broken.append(f"tied choices {tie} are not taken together")
    for count in problem.counts:
        number = sum(choice in taken for choice in count.choices)
        if count.upper is not None and number > count.upper:
            broken.append(f"{number} of {count.name!r}, at most {count.upper} allowed")
        if count.lower is not None and number < count.lower:
            broken.append(f"{number} of {count.name!r}, at least {count.lower} needed")
    for distance in problem.distances:
        same = sum(int(problem.span[choice]) for choice in set(distance.chosen) if choice in taken)
        if problem.layers - same < distance.minimum:
            broken.append(f"differs in {problem.layers - same} layers, expected at least {distance.minimum}")
    return broken


def check(problem: SelectionProblem, chosen: Sequence[int], *, costs: Mapping[str, float] | None = None) -> None:
    """Raise unless `chosen` is a valid selection of `problem`.

    Args:
        costs: claimed sums by name, which are added again.

    Raises:
        InvalidSelection: naming everything that is broken.
    """
    broken = violations(problem, chosen)
    for name, claimed in ({} if broken or costs is None else costs).items():
        problem.require_cost(name)
        parts = _parts(problem, name, chosen)
        if not abs(claimed - fsum(parts)) <= TOLERANCE * fsum(abs(part) for part in parts):
            broken.append(f"{name} sums to {fsum(parts):.9g}, not to {claimed:.9g}")
    if broken:
        raise InvalidSelection(f"The selection {list(chosen)} does not solve its problem: {'; '.join(broken)}.")


def totals(problem: SelectionProblem, chosen: Sequence[int]) -> tuple[float, dict[str, float]]:
    """Summed loss, and every summed cost by name, less what credits save."""
    return fsum(_parts(problem, None, chosen)), {name: fsum(_parts(problem, name, chosen)) for name in problem.costs}


def earned(problem: SelectionProblem, chosen: Sequence[int]) -> list[Credit]:
    """The credits of which a selection holds a producer and a consumer."""
    taken = {int(choice) for choice in chosen}
    return [
        credit
        for credit in problem.credits
        if not taken.isdisjoint(credit.producers) and not taken.isdisjoint(credit.consumers)
    ]


def _parts(problem: SelectionProblem, name: str | None, chosen: Sequence[int]) -> list[float]:
    """The summands of a cost, or of the loss where `name` is None."""
    if name is None:
        own, saved = problem.loss, [credit.loss for credit in earned(problem, chosen)]
    else:
        own, saved = problem.costs[name], [credit.amounts.get(name, 0.0) for credit in earned(problem, chosen)]
    return [*(float(own[choice]) for choice in chosen), *(-amount for amount in saved)]
