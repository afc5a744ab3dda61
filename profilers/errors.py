"""The errors of `profilers`; every one is a `ProfilerError`."""

from __future__ import annotations


class ProfilerError(Exception):
    """The root of this package's errors."""


class RuntimeUnavailable(ProfilerError):
    """A runtime that is unknown here or not installed."""


class BuildFailed(ProfilerError):
    """A runtime cannot take a computation. In a sweep this becomes a row with its error."""


class MeasurementFailed(ProfilerError):
    """A measuring process crashed, hung or could not start."""


class InvalidTable(ProfilerError):
    """A latency table that is tampered with, truncated, or no latency table at all."""


class TableMismatch(ProfilerError):
    """Rows of another device, runtime, version or setting than a table's."""


class MissingRow(ProfilerError, LookupError):
    """A latency table has no row of this key."""
