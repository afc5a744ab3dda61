"""The engine that computes one unit after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lana.engines.base import Outcome, Unit, Value, attempt


class LocalEngine:
    def map(self, function: Callable[[Unit], Value], units: Sequence[Unit]) -> Iterator[Outcome[Value]]:
        for index, unit in enumerate(units):
            yield attempt(function, index, unit)
