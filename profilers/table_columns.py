"""The columns of a latency table, and the figures that can be in them.

A checksum shows that nobody changed a table. It does not show that its figures can be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TypeGuard

from profilers.errors import ProfilerError
from profilers.kernels import KERNELS

COLUMNS = {
    "key": "hash of the computation's structure",
    "name": "of the computation, for people",
    "operation": "its name in the pool",
    "family": "of the operation",
    "layer": "a layer that has it, as an example",
    "input_shape": "without the batch",
    "output_shape": "without the batch",
    "latency_ms": "milliseconds of a run with warm caches: median over rounds, at the speed of the reference",
    "p90_ms": "milliseconds that nine of ten runs do not exceed",
    "cold_ms": "milliseconds of the first run after a walk over a buffer: median over rounds",
    "interval": "half the 95% interval of latency_ms, relative to it",
    "noisy": "1 where the interval is wider than 0.05",
    "rounds": "visits that the figures rest on",
    "raw_ms": "latency_ms as the clock had it, without calibration",
    "parameters": "numbers in the weights",
    "weight_bytes": "bytes of the weights",
    "macs": "multiply-adds of a run",
    "operators": "operators in the traced graph",
    "error": "why there is no figure; empty where there is one",
    "measured": "when, in UTC",
    "load": "of the system then: processes that wanted to run, averaged over a minute",
    "more": "further labels and columns, as JSON",
    "check": "of the row and the header",
}
LABELS = ("operation", "family", "layer", "input_shape", "output_shape")
STATIC = ("parameters", "weight_bytes", "macs", "operators")
MEASURED = ("latency_ms", "p90_ms", "cold_ms", "interval", "rounds", "raw_ms")

Fields = dict[str, str]

_LARGEST = 1e15  # of any figure, in any unit


def is_positive(value: object) -> TypeGuard[float]:
    """True if a value is a finite number above zero.

    >>> is_positive(0.5), is_positive(0), is_positive(float("nan")), is_positive("0.5"), is_positive(True)
    (True, False, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LARGEST


def check_reference(reference_s: Mapping[str, float]) -> None:
    """Refuse seconds of calibration kernels that cannot be: every latency is divided by them.

    Raises:
        ProfilerError: a kernel has no finite seconds above zero.
    """
    for name in KERNELS:
        value = reference_s.get(name)
        if not is_positive(value):
            raise ProfilerError(
                f"The calibration kernel {name!r} took {str(value)[:40]} seconds; expected a finite number above 0."
            )


def row_fault(row: Fields) -> str:
    """Why the figures of a row cannot be; empty where they can.

    A row with an error has no figures. `interval` may be infinite: one round bounds nothing.
    """
    for name in (*MEASURED, *STATIC, "load"):
        text, required = row[name], name in MEASURED and not row["error"]
        if not text and not required:
            continue
        try:
            value = float(text)
        except ValueError:
            return f"{name} is {text[:40]!r}, expected a number"
        above = name in MEASURED and name != "interval"
        if not (0 < value <= _LARGEST if above else 0 <= value <= (math.inf if name == "interval" else _LARGEST)):
            return f"{name} is {text[:40]}, expected a finite number {'above' if above else 'of at least'} 0"
    try:
        more = json.loads(row["more"]) if row["more"] else {}
    except (ValueError, RecursionError):
        more = None
    if not isinstance(more, dict) or not all(isinstance(value, (str, int, float)) for value in more.values()):
        return f"more is {row['more'][:40]!r}, expected labels and numbers as JSON"
    return ""
