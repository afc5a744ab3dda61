"""The check of a selection against its problem: plain Python on purpose, sharing nothing with the solvers it checks."""

from collections.abc import Sequence
from math import fsum

from .errors import InvalidSelection
from .problem import SelectionProblem

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
        parts = [float(problem.costs[name][choice]) for choice in selected]
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


def check(problem: SelectionProblem, chosen: Sequence[int]) -> None:
    """Raise unless `chosen` is a valid selection of `problem`.

    Raises:
        InvalidSelection: naming everything that is broken.
    """
    broken = violations(problem, chosen)
    if broken:
        raise InvalidSelection(f"The selection {list(chosen)} does not solve its problem: {'; '.join(broken)}.")


def totals(problem: SelectionProblem, chosen: Sequence[int]) -> tuple[float, dict[str, float]]:
    """Summed loss, and every summed cost by name."""
    loss = fsum(float(problem.loss[choice]) for choice in chosen)
    return loss, {name: fsum(float(cost[c]) for c in chosen) for name, cost in problem.costs.items()}
