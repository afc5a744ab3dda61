"""A latency budget as text: a share of the teacher's latency, or milliseconds."""

from __future__ import annotations

import re

from lana.errors import UserError

LARGEST = 10**9  # milliseconds, or any other figure


def parse_budget(text: str) -> tuple[float, str]:
    """A budget as (number, "x" | "ms").

    Raises:
        UserError: it is neither a share like 0.4x nor milliseconds, or not above zero.

    >>> parse_budget("0.4x"), parse_budget("3ms")
    ((0.4, 'x'), (3.0, 'ms'))
    """
    match = re.fullmatch(r"\s*(-?[0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*(x|ms)\s*", text)
    if not match:
        raise UserError(
            f"The budget {text[:40]!r} is neither a share of the teacher's latency nor milliseconds. "
            "Give --budget 0.4x or --budget-ms 4.2."
        )
    value = float(match[1])
    if not value > 0:
        raise UserError(
            f"The budget {text[:40]!r} is not above zero. Give --budget 0.4x or --budget-ms 4.2, for example."
        )
    if value > LARGEST:
        raise UserError(f"The budget {text[:40]!r} is beyond {LARGEST}. Give --budget 0.4x or --budget-ms 4.2.")
    return value, match[2]


def check_number(name: str, value: float, *, least: float = 0.0) -> float:
    """A finite number above `least`, as an option that no recipe holds has it.

    Raises:
        UserError: it is none.
    """
    if not least < value <= LARGEST:
        raise UserError(f"{name} {str(value)[:40]}: expected a number above {least:g}, at most {LARGEST:g}.")
    return value
