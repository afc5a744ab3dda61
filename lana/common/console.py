"""Printing of results: for people as wide as the terminal, for machines as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120
LONGEST_MESSAGE = 3000  # characters


def make_console() -> Console:
    """A terminal as wide as it is; a pipe wide enough for the tables.

    What is printed holds names of layers, files and students, so it is never read as markup.
    """
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, width=PIPE_WIDTH)


def bounded(message: str) -> str:
    """A message of a length that people read: the middle of a longer one is left out.

    >>> len(bounded("x" * 10_000)), bounded("short")
    (3000, 'short')
    """
    half = LONGEST_MESSAGE // 2
    return message if len(message) <= LONGEST_MESSAGE else f"{message[: half - 3]} … {message[-half:]}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of many names.

    >>> listed(["a", "b", "c"], most=2)
    'a, b …'
    """
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def figure(metric: float | None) -> str:
    """A task's metric: a share as percent, anything else (decibels, an error in pixels) as it is.

    >>> figure(0.9123), figure(31.52), figure(None)
    ('91.23%', '31.52', '–')
    """
    if metric is None:
        return "–"
    return f"{metric:.2%}" if 0 <= metric <= 1 else f"{metric:.4g}"


def change(difference: float) -> str:
    """A difference of two of a task's metrics: shares in percentage points.

    >>> change(-0.0123), change(2.5)
    ('-1.23 points', '+2.5')
    """
    return f"{100 * difference:+.2f} points" if abs(difference) <= 1 else f"{difference:+.4g}"


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def to_json(value: Any, *, indent: int | None = 1) -> str:
    """Plain data as JSON that every parser takes: what is no finite number is null.

    >>> to_json({"latency_ms": float("nan"), "loss": float("inf")}, indent=None)
    '{"latency_ms": null, "loss": null}'
    """
    return json.dumps(_finite(value), indent=indent, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
