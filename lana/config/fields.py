"""The declaration of an option: type, bounds, choices and help text, checked in one place."""

from __future__ import annotations

import operator
import types
import typing
from dataclasses import field
from typing import Any

from lana.errors import UserError


def option(default: Any, help: str, *, stage: str, **more: Any) -> Any:
    """A field of the recipe: its default, its help text (used by the command line), the stage it decides.

    Raises:
        TypeError: the default is mutable (use None or a tuple).
    """
    return field(default=default, metadata={"help": help, "stage": stage, **more})


BOUNDS = (
    ("least", operator.ge, "at least"),
    ("most", operator.le, "at most"),
    ("above", operator.gt, "a number above"),
    ("below", operator.lt, "a number below"),
)

_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple[int, ...]: "whole numbers like 3,32,32",
    tuple[float, ...]: "numbers like 0.5,0.5,0.5",
}


def value_of_type(hint: Any, name: str, value: Any) -> Any:
    """The value as its field's type: YAML reads 1e-3 as text and, where there may be several numbers, 0.5 as one.

    Raises:
        UserError: it is none of that type.
    """
    kind, *rest = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and rest:
        return None
    try:
        if typing.get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            parts = parts if isinstance(parts, (list, tuple)) else [parts]
            return tuple(_number(typing.get_args(kind)[0], part) for part in parts)
        if kind in (int, float):
            return _number(kind, value)
        if isinstance(value, kind):
            return value
    except (TypeError, ValueError):
        pass
    raise UserError(f"{flag(name)} {value!r}: expected {_EXPECTED[kind]}.")


def _number(kind: type, value: Any) -> Any:
    number = float(value)
    if isinstance(value, bool) or (kind is int and not number.is_integer()):
        raise ValueError
    return kind(value if isinstance(value, int) else number)


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")
