"""The contract of an engine: a function over independent units of work, wherever they are computed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Unit = TypeVar("Unit")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Value]):
    """The value of one unit, or the error that it ended with; `index` is its place among the units.

    The error is text: a traceback, or how its process ended.
    """

    index: int
    value: Value | None = None
    error: str | None = None


class Engine(Protocol):
    """Computes a function of each unit."""

    def map(self, function: Callable[[Unit], Value], units: Sequence[Unit]) -> Iterator[Outcome[Value]]:
        """One outcome a unit, in the order in which they come; a unit that fails does not stop the others.

        Units and values are serialisable, and the function depends on nothing but its unit.
        """


def attempt(function: Callable[[Any], Any], index: int, unit: Any) -> Outcome[Any]:
    try:
        return Outcome(index=index, value=function(unit))
    except Exception:  # the caller's function: whatever it raises is the unit's outcome
        return Outcome(index=index, error=traceback.format_exc())
