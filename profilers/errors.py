"""What can go wrong in measuring; `ProfilerError` is the root."""


class ProfilerError(Exception):
    """The root of everything that this package raises on purpose."""


class RuntimeUnavailable(ProfilerError):
    """A runtime is unknown, or a package that it needs is not installed."""


class MeasurementFailed(ProfilerError):
    """A computation that had to be measured could not be built or run."""


class InvalidTable(ProfilerError):
    """A latency table is tampered with, truncated, or of another schema."""


class MissingRow(ProfilerError, KeyError):
    """A table does not hold a computation."""

    def __str__(self) -> str:
        return str(self.args[0])
