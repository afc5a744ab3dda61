"""How results are printed: for people as wide as the terminal, for machines as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120


def make_console() -> Console:
    """A terminal as wide as it is; a pipe wide enough for the tables."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def to_json(value: Any, *, indent: int | None = 1) -> str:
    """Plain data as JSON that every parser takes: what is not a number (NaN) is null.

    >>> to_json({"latency_ms": float("nan")}, indent=None)
    '{"latency_ms": null}'
    """
    return json.dumps(_without_nan(value), indent=indent, default=str)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
