"""Measuring only, never deciding: a `Computation` in, a `Measurement` out; importing this loads no runtime."""

from .comparison import Comparison, compare, upper_bound_95
from .computation import Computation, TensorSpec
from .errors import InvalidTable, MeasurementFailed, MissingRow, ProfilerError, RuntimeUnavailable
from .measurement import Measurement
from .runtime import Runtime, RuntimeSettings, RuntimeStatus, Session, create_runtime, runtime_statuses
from .sweep import Progress, profile
from .table import LatencyTable, Row
from .timing import Protocol

__all__ = [
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
    "TensorSpec",
    "compare",
    "create_runtime",
    "profile",
    "runtime_statuses",
    "upper_bound_95",
]
