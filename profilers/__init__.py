"""Measuring only, never deciding: computations in, latencies out.

Names are loaded when first used: a measuring process must start fast and load nothing that it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from profilers import telemetry as _telemetry

if TYPE_CHECKING:
    from profilers.comparison import Comparison, compare
    from profilers.computation import Computation, TensorSpec
    from profilers.errors import (
        BuildFailed,
        InvalidTable,
        MeasurementFailed,
        MissingRow,
        ProfilerError,
        RuntimeUnavailable,
        TableMismatch,
    )
    from profilers.measurement import Measurement
    from profilers.registry import RuntimeStatus, create_runtime, runtime_statuses
    from profilers.runtime import Runtime, RuntimeSettings, Session
    from profilers.sweep import Progress, profile
    from profilers.table import LatencyTable, Row
    from profilers.timing import Protocol

_telemetry.switch_off()

_HOME = {
    "Comparison": "comparison",
    "compare": "comparison",
    "Computation": "computation",
    "TensorSpec": "computation",
    "BuildFailed": "errors",
    "InvalidTable": "errors",
    "MeasurementFailed": "errors",
    "MissingRow": "errors",
    "ProfilerError": "errors",
    "RuntimeUnavailable": "errors",
    "TableMismatch": "errors",
    "Measurement": "measurement",
    "Runtime": "runtime",
    "RuntimeSettings": "runtime",
    "RuntimeStatus": "registry",
    "Session": "runtime",
    "create_runtime": "registry",
    "runtime_statuses": "registry",
    "Progress": "sweep",
    "profile": "sweep",
    "LatencyTable": "table",
    "Row": "table",
    "Protocol": "timing",
}

__all__ = [
    "BuildFailed",
    "Comparison",
    "Computation",
    "InvalidTable",
    "LatencyTable",
    "Measurement",
    "MeasurementFailed",
    "MissingRow",
    "ProfilerError",
    "Progress",
    "Protocol",
    "Row",
    "Runtime",
    "RuntimeSettings",
    "RuntimeStatus",
    "RuntimeUnavailable",
    "Session",
    "TableMismatch",
    "TensorSpec",
    "compare",
    "create_runtime",
    "profile",
    "runtime_statuses",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'profilers' has no attribute {name!r}")
    return getattr(import_module(f"profilers.{_HOME[name]}"), name)
