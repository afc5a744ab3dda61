"""Covers as paths: a selection that covers every layer once is a path from layer 0 to the last layer's end."""

from collections.abc import Sequence

import numpy as np

# At most 2 to this power states between two layers. Credits that would need more are free columns.
OPEN_CREDITS = 5
Sides = tuple[Sequence[int], Sequence[int]]


def segments(first: np.ndarray, span: np.ndarray) -> list[np.ndarray]:
    """The choices of every segment: those that cover the same layers."""
    order, start = _runs(first, span)
    return np.split(order, start[1:]) if len(order) else []


def _runs(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices sorted by some keys, and where equal ones start."""
    order = np.lexsort(keys[::-1])
    ordered = np.stack(keys)[:, order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    return order, np.flatnonzero(new)


class Cover:
    """Shortest paths over the choices of a problem, for any weights.

    Choices with the same first layer and span form a segment; those that stand on the same sides of credits, a group.
    Only the lightest of a group can lie on a shortest path. A path therefore costs one pass over the choices and one
    step per group and state.

    Credits are columns after the choices. A state is a position between layers and the credits of which a path holds
    the side before it, so paths hold a credit's column exactly if they hold both sides. A *free* column, of a credit
    beyond the limit of states, is in a path if its weight is negative.

    Attributes:
        first, end: of every column; 0 for credits.
        exact: the columns of credits that paths hold exactly if they earn them.

    >>> cover = Cover(2, np.array([0, 0, 1]), np.array([1, 2, 1]))
    >>> cover.path(np.array([1.0, 5.0, 1.5]))  # choices 0 and 2 (1 + 1.5) beat choice 1, which spans both (5)
    (2.5, [0, 2])
    >>> cover.through(np.array([1.0, 5.0, 1.5]))
    array([2.5, 5. , 2.5])
    >>> cover = Cover(2, np.array([0, 0, 1]), np.array([1, 1, 1]), [((1,), (2,))])
    >>> cover.path(np.array([1.0, 1.5, 1.0, -0.8]))  # column 3 is the credit of choices 1 and 2
    (1.7, [1, 2, 3])
    """

    def __init__(self, layers: int, first: np.ndarray, span: np.ndarray, credits: Sequence[Sides] = ()) -> None:
        self.layers = layers
        nothing = np.zeros(len(credits), dtype=np.int64)
        self.first, self.end = np.concatenate([first, nothing]), np.concatenate([first + span, nothing])
        self._choices = len(first)
        earlier, later, last = self._tracked(credits)
        numbers: dict[tuple[int, int], int] = {}
        kind = [numbers.setdefault(sides, len(numbers)) for sides in zip(earlier, later, strict=True)]
        self._order, self._start = _runs(first, span, np.array(kind, dtype=np.int64))
        self._stop = np.append(self._start[1:], len(first))
        self._expand(earlier, later, last)

    def _tracked(self, credits: Sequence[Sides]) -> tuple[list[int], list[int], list[int]]:
        """Bit k is credit k: the choices on its earlier side, those on its later one, and where it may be earned yet.

        All choices of a side share a layer, so the sides come in the same order in every selection that holds both.
        """
        earlier, later, last = [0] * self._choices, [0] * self._choices, [0] * (self.layers + 1)
        layer = [[int(self.first[list(side)].max()) for side in sides] for sides in credits]
        open_credits = np.zeros(self.layers + 1, dtype=np.int64)
        exact = []
        for number in sorted(range(len(credits)), key=lambda k: abs(layer[k][1] - layer[k][0])):
            low, high = sorted(layer[number])
            if open_credits[low + 1 : high + 1].max(initial=0) >= OPEN_CREDITS:
                continue
            exact.append(self._choices + number)
            open_credits[low + 1 : high + 1] += 1
            if low == high:
                continue  # no selection holds both sides
            before, after = credits[number] if layer[number][0] == low else credits[number][::-1]
            for choice in before:
                earlier[choice] |= 1 << number
            for choice in after:
                later[choice] |= 1 << number
            for position in range(high + 1):
                last[position] |= 1 << number
        columns = np.arange(self._choices + len(credits))
        self.exact = np.isin(columns, exact)
        self._free = columns[self._choices :][~self.exact[self._choices :]]
        return earlier, later, last

    def _expand(self, earlier: list[int], later: list[int], last: list[int]) -> None:
        """The steps from state to state: each by a choice of a group, some with credits earned."""
        groups: list[list[int]] = [[] for _ in range(self.layers)]
        for group, choice in enumerate(self._order[self._start].tolist()):
            groups[int(self.first[choice])].append(group)
        states: list[dict[int, int]] = [{} for _ in range(self.layers + 1)]  # credits held → state, at each position
        states[0][0], self._states = 0, 1
        steps: list[tuple[int, int, int]] = []
        self._earned: list[list[int]] = []
        for position in range(self.layers):
            for held, state in states[position].items():
                for group in groups[position]:
                    choice = int(self._order[self._start[group]])
                    end = int(self.end[choice])
                    now = (held | earlier[choice]) & last[end]
                    if now not in states[end]:
                        states[end][now] = self._states
                        self._states += 1
                    steps.append((state, states[end][now], group))
                    won = held & later[choice]
                    self._earned.append([self._choices + k for k in range(won.bit_length()) if won >> k & 1])
        self._final = states[self.layers].get(0, -1)
        self._from, self._to, self._group = np.array(steps, dtype=np.int64).reshape(-1, 3).T
        self._steps = list(zip(self._from.tolist(), self._to.tolist(), strict=True))
        # Which step takes which place of the order, and which one earns which credit.
        size = (self._stop - self._start)[self._group]
        self._taking = np.repeat(np.arange(len(steps)), size)
        skipped = np.repeat(self._start[self._group] - (np.cumsum(size) - size), size)
        self._taken = np.arange(len(self._taking)) + skipped
        self._earning = np.repeat(np.arange(len(steps)), [len(columns) for columns in self._earned])
        self._credit = np.array([column for columns in self._earned for column in columns], dtype=np.int64)

    def path(self, weights: np.ndarray) -> tuple[float, list[int]]:
        """The lightest cover: its weight and its columns, the choices in order; infinite and empty if there is none."""
        ordered = weights[self._order]
        distance, origin = self._forward(self._weigh(ordered, weights))
        if self._final < 0 or not np.isfinite(distance[self._final]):
            return np.inf, []
        chosen, earned, at = [], [], self._final
        while at:
            step = origin[at]
            low, high = self._start[self._group[step]], self._stop[self._group[step]]
            chosen.append(int(self._order[low + int(ordered[low:high].argmin())]))
            earned += self._earned[step]
            at = self._steps[step][0]
        free = self._free[weights[self._free] < 0]
        return distance[self._final] + float(weights[free].sum()), chosen[::-1] + earned + free.tolist()

    def through(self, weights: np.ndarray) -> np.ndarray:
        """Shape (columns,): the weight of the lightest cover that holds each one; infinite where there is none."""
        through = np.full(len(weights), np.inf)
        if self._final < 0:
            return through
        ordered = weights[self._order]
        steps = self._weigh(ordered, weights)
        before, _ = self._forward(steps)
        after = [np.inf] * self._states
        after[self._final] = 0.0
        for (low, high), weight in zip(reversed(self._steps), reversed(steps), strict=True):
            after[low] = min(after[low], weight + after[high])
        head, tail = np.asarray(before)[self._from], np.asarray(after)[self._to]
        taken, step = self._taken, self._taking
        np.minimum.at(through, self._order[taken], (head + self._saved(weights))[step] + ordered[taken] + tail[step])
        np.minimum.at(through, self._credit, (head + steps + tail)[self._earning])
        if len(self._free):
            own = weights[self._free]
            through += np.minimum(own, 0.0).sum()
            through[self._free] = before[self._final] + np.minimum(own, 0.0).sum() + np.maximum(own, 0.0)
        return through

    def _saved(self, weights: np.ndarray) -> np.ndarray:
        """The weight of the credits that each step earns."""
        return np.bincount(self._earning, weights=weights[self._credit], minlength=len(self._steps))

    def _weigh(self, ordered: np.ndarray, weights: np.ndarray) -> list[float]:
        """The weight of the lightest choice of each step, with its credits."""
        if not self._steps:
            return []
        lightest = np.minimum.reduceat(ordered, self._start)[self._group]
        weighed: list[float] = (lightest + self._saved(weights)).tolist()
        return weighed

    def _forward(self, weighed: list[float]) -> tuple[list[float], list[int]]:
        distance = [0.0] + [np.inf] * (self._states - 1)
        origin = [-1] * self._states
        for step, ((low, high), weight) in enumerate(zip(self._steps, weighed, strict=True)):
            if distance[low] + weight < distance[high]:
                distance[high] = distance[low] + weight
                origin[high] = step
        return distance, origin
