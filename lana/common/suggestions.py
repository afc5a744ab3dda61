"""Near names for an unknown one: "Did you mean"."""

from __future__ import annotations

import difflib


def near(given: str, known: list[str]) -> str:
    """A sentence with the names close to what was given, or with a few that exist."""
    shown = ", ".join(known[:20])
    return close(given, known) or f" Known: {shown}{' …' if len(known) > 20 else ''}."


def close(given: str, known: list[str], cutoff: float = 0.5) -> str:
    """A sentence with the names close to what was given, or nothing."""
    matches = difflib.get_close_matches(given, known, n=5, cutoff=cutoff)
    return f" Did you mean: {', '.join(matches)}?" if matches else ""
