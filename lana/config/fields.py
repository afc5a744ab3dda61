"""The declaration of options: a group is a dataclass, an option its field with help text, bounds and choices."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lana.common.suggestions import near
from lana.errors import UserError

_BOUNDS = (
    ("least", operator.ge, "at least"),
    ("most", operator.le, "at most"),
    ("above", operator.gt, "a number above"),
    ("below", operator.lt, "a number below"),
)

_LONGEST = 60  # characters of a value in a message

_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple[int, ...]: "whole numbers like 3,32,32",
    tuple[float, ...]: "numbers like 0.5,0.5,0.5",
}


def option(default: Any, help: str, *, name: str = "", added: bool = False, **limits: Any) -> Any:
    """A field that is an option, with its default and its help text.

    `name` is the name for flags and recipe files, by default the field's own. An option that is `added` later enters
    fingerprints only where it differs from its default: runs begun before it stay valid. `limits` are `least`, `most`,
    `above`, `below` and `choices`.

    Raises:
        ValueError: the default is mutable (use None or a tuple).
    """
    return dataclasses.field(default=default, metadata={"help": help, "name": name, "added": added, **limits})


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options, each checked when the group is made.

    `stage` is the stage that a change of any of them begins anew, with all later ones; None for no stage.
    """

    stage: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        for declared in options_of(type(self)):
            object.__setattr__(self, declared.field, declared.checked(getattr(self, declared.field)))


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its `name` in flags and recipe files, and the group and field that hold it."""

    name: str
    group: type[Options]
    field: str
    type: Any
    default: Any
    help: str
    added: bool
    limits: Mapping[str, Any]

    def checked(self, value: Any) -> Any:
        """The value as this option's type.

        Raises:
            UserError: it is of another type, out of bounds or none of the choices.
        """
        value = value_of_type(self.type, self.name, value)
        if value is None:
            return value
        if value in ("", ()) and self.default != value:
            raise UserError(f"{flag(self.name)} {shown(value)}: expected a value. Leave it out for the default.")
        for limit, holds, expected in _BOUNDS:
            bound = self.limits.get(limit)
            numbers = value if isinstance(value, tuple) else (value,)
            if bound is not None and not all(holds(number, bound) for number in numbers):
                raise UserError(f"{flag(self.name)} {shown(value)}: expected {expected} {bound}.")
        choices = self.limits.get("choices")
        if choices is not None and value not in choices:
            raise UserError(f"{flag(self.name)} {shown(value)}: expected one of {', '.join(choices)}.")
        return value


def options_of(group: type[Options]) -> tuple[Option, ...]:
    """The options that a group declares, in order."""
    hints = typing.get_type_hints(group)
    return tuple(
        Option(
            name=option_name(spec),
            group=group,
            field=spec.name,
            type=hints[spec.name],
            default=spec.default,
            help=spec.metadata["help"],
            added=spec.metadata["added"],
            limits=spec.metadata,
        )
        for spec in dataclasses.fields(group)
        if spec.metadata
    )


def option_name(spec: dataclasses.Field) -> str:
    """The option that fills a field in; one without a declaration of its own shares another group's."""
    return spec.metadata.get("name") or spec.name


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
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{flag(name)} {shown(value)}: expected {_EXPECTED[kind]}.")


def _number(kind: type, value: Any) -> Any:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number) or (kind is int and not number.is_integer()):
        raise ValueError
    return kind(value if isinstance(value, int) else number)


def shown(value: Any) -> str:
    """A value that was given, for a message: as code has it, cut short.

    >>> shown("cpu"), shown((0.5, 2)), len(shown("9" * 400))
    ("'cpu'", '(0.5, 2)', 61)
    """
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than some thousand digits
        text = f"{type(value).__name__}, too long to print"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…{text[-1]}"


def flag(name: str) -> str:
    """The command line's spelling of an option."""
    return "--" + name.replace("_", "-")


def check_options(given: Mapping[str, Any], known: typing.Iterable[str], what: str) -> None:
    """Refuse options that there are not.

    Raises:
        UserError: an option that is not `known`; the message offers one that is spelled alike.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise UserError(f"{what} has no option {name!r}.{near(name, names)}")
