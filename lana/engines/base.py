"""The contract of an engine: a function over independent units of work, wherever they are computed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lana.errors import LanaError, UserError

Unit = TypeVar("Unit")
Value = TypeVar("Value")
Watch = Callable[[], Sequence[int]]

POLL_S = 0.5  # between two looks at the units that are being computed


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Value]):
    """The value of one unit, or the error that it ended with; `index` is its place among the units.

    The error is text: a traceback, or how its process ended. `lost` marks one of the worker: it was killed, hung or
    out of memory, and the unit may succeed elsewhere. `cause` is the error itself where it is one for the user.
    """

    index: int
    value: Value | None = None
    error: str | None = None
    lost: bool = False
    cause: Exception | None = None


def nothing_stalls() -> Sequence[int]:
    return ()


class Engine(Protocol):
    """Computes a function of each unit."""

    def map(
        self, function: Callable[[Unit], Value], units: Sequence[Unit], watch: Watch = nothing_stalls
    ) -> Iterator[Outcome[Value]]:
        """One outcome a unit, in the order in which they come; a unit that fails does not stop the others.

        Units and values are serialisable, and the function depends on nothing but its unit. An engine with workers
        calls `watch` now and then, and stops the workers of the units that it returns: they hang.
        """


def attempt(function: Callable[[Any], Any], index: int, unit: Any) -> Outcome[Any]:
    try:
        return Outcome(index=index, value=function(unit))
    except Exception as error:  # the caller's function: whatever it raises is the unit's outcome
        shown = type(error) in (LanaError, UserError) or isinstance(error, OSError)  # others may not be serialisable
        text, cause = (str(error), error) if shown else (traceback.format_exc(), None)
        return Outcome(index=index, error=text, lost=_out_of_memory(error), cause=cause)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(
        words in f"{type(error).__name__}: {error}" for words in ("OutOfMemoryError", "can't allocate memory")
    )
