"""The errors of `solvers`; every one is a `SolverError`."""


class SolverError(Exception):
    """The root of this package's errors."""


class InvalidProblem(SolverError, ValueError):
    """A problem whose parts contradict each other before anything is solved."""


class InvalidSelection(SolverError, ValueError):
    """A selection that breaks the problem it is meant to solve."""


class SolverUnavailable(SolverError):
    """A solver that is unknown here or not installed."""
