"""Covers as paths: a selection that covers every layer once is a path from layer 0 to the last layer's end."""

import numpy as np


class Cover:
    """Shortest paths over the choices of a problem, for any weights.

    Choices with the same first layer and span form a segment. Only the lightest of a segment can lie on a shortest
    path. A path therefore costs one pass over the choices and one step per segment.

    A choice of span 0 covers nothing, as the column of a credit. A lightest cover holds it if its weight is negative.

    >>> cover = Cover(2, np.array([0, 0, 1]), np.array([1, 2, 1]))
    >>> cover.path(np.array([1.0, 5.0, 1.5]))  # choices 0 and 2 (1 + 1.5) beat choice 1, which spans both (5)
    (2.5, [0, 2])
    >>> cover.through(np.array([1.0, 5.0, 1.5]))
    array([2.5, 5. , 2.5])
    """

    def __init__(self, layers: int, first: np.ndarray, span: np.ndarray) -> None:
        self.layers = layers
        self.first = first
        self.end = first + span
        self.optional = np.flatnonzero(span == 0)
        self._order = np.lexsort((span, first))
        self._order = self._order[span[self._order] > 0]
        pairs = np.stack([first[self._order], span[self._order]])
        new = np.ones(len(self._order), dtype=bool)
        new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
        self._start = np.flatnonzero(new)
        self._stop = np.append(self._start[1:], len(self._order))
        self._from = pairs[0, self._start].tolist()
        self._to = (pairs[0, self._start] + pairs[1, self._start]).tolist()

    def segments(self) -> list[np.ndarray]:
        """The choices of every segment."""
        return [self._order[a:b] for a, b in zip(self._start, self._stop, strict=True)]

    def path(self, weights: np.ndarray) -> tuple[float, list[int]]:
        """The lightest cover: its weight and its choices, in order; infinite and empty where there is none."""
        ordered = weights[self._order]
        distance, origin = self._forward(self._lightest(ordered))
        if not np.isfinite(distance[-1]):
            return np.inf, []
        chosen, at = [], self.layers
        while at:
            segment = origin[at]
            low, high = self._start[segment], self._stop[segment]
            chosen.append(int(self._order[low + int(ordered[low:high].argmin())]))
            at = self._from[segment]
        taken = self.optional[weights[self.optional] < 0]
        return distance[-1] + float(weights[taken].sum()), chosen[::-1] + taken.tolist()

    def through(self, weights: np.ndarray) -> np.ndarray:
        """Shape (n,): the weight of the lightest cover that holds each choice; infinite where there is none."""
        lightest = self._lightest(weights[self._order])
        before, _ = self._forward(lightest)
        after = [np.inf] * self.layers + [0.0]
        for low, high, weight in zip(reversed(self._from), reversed(self._to), reversed(lightest), strict=True):
            after[low] = min(after[low], weight + after[high])
        through = np.asarray(before)[self.first] + weights + np.asarray(after)[self.end]
        if len(self.optional):
            own = weights[self.optional]
            through += np.minimum(own, 0.0).sum()
            through[self.optional] = before[-1] + np.minimum(own, 0.0).sum() + np.maximum(own, 0.0)
        return through

    def _lightest(self, ordered: np.ndarray) -> list[float]:
        return np.minimum.reduceat(ordered, self._start).tolist() if len(ordered) else []

    def _forward(self, lightest: list[float]) -> tuple[list[float], list[int]]:
        distance = [0.0] + [np.inf] * self.layers
        origin = [-1] * (self.layers + 1)
        for segment, (low, high, weight) in enumerate(zip(self._from, self._to, lightest, strict=True)):
            if distance[low] + weight < distance[high]:
                distance[high] = distance[low] + weight
                origin[high] = segment
        return distance, origin
