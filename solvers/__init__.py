"""Exact selection: one choice per layer, least loss, within limits. Arrays in, `Solution` out; no networks here."""

from .diverse import solve_diverse
from .errors import InvalidProblem, InvalidSelection, SolverError, SolverUnavailable
from .feasibility import fastest
from .ilp import Memory, solve
from .problem import CountLimit, DistanceLimit, Limit, SelectionProblem
from .program import available_solvers
from .solution import Solution, Termination
from .verify import check, violations

__all__ = [
    "CountLimit",
    "DistanceLimit",
    "InvalidProblem",
    "InvalidSelection",
    "Limit",
    "Memory",
    "SelectionProblem",
    "Solution",
    "SolverError",
    "SolverUnavailable",
    "Termination",
    "available_solvers",
    "check",
    "fastest",
    "solve",
    "solve_diverse",
    "violations",
]
