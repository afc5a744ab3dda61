"""The arguments to build a model with, as a user writes them."""

from __future__ import annotations

import re
from typing import Any

import yaml

from lana.errors import UserError


def parse_arguments(text: str | None) -> dict[str, Any]:
    """'a=1,b=x' as a mapping, values read as YAML, and as Python would write numbers and None.

    >>> parse_arguments("num_classes=10,act=relu")
    {'num_classes': 10, 'act': 'relu'}
    >>> parse_arguments("layers=[2,2]")
    {'layers': [2, 2]}
    >>> parse_arguments("eps=1e-5,drop=None")
    {'eps': 1e-05, 'drop': None}

    Raises:
        UserError: a value without a name, or one that is not YAML.
    """
    flow, pairs = re.subn(r"(^|[,{])\s*([^\s=,{]+)\s*=", r'\1"\2": ', text or "")
    try:
        arguments = yaml.safe_load(f"{{{flow}}}")
    except yaml.YAMLError:
        arguments = None
    if arguments is None or len(arguments) > pairs:
        raise UserError(
            f"--model-args {text!r}: expected NAME=VALUE pairs, separated by commas, e.g. num_classes=10,act=relu."
        )
    return {name: _as_python(value) for name, value in arguments.items()}


def _as_python(value: Any) -> Any:
    if value == "None":
        return None
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", value, re.IGNORECASE)
    return float(value) if is_number else value
