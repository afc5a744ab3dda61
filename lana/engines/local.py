"""The engine that computes one unit after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lana.engines.base import Outcome, Unit, Value, Watch, attempt, nothing_stalls


class LocalEngine:
    def map(
        self, function: Callable[[Unit], Value], units: Sequence[Unit], watch: Watch = nothing_stalls
    ) -> Iterator[Outcome[Value]]:
        for index, unit in enumerate(units):
            yield attempt(function, index, unit)
