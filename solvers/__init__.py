"""Exact selection: one choice per layer, least loss, within limits. Arrays in, `Solution` out; no networks here."""

from .baselines import beam_search, evolutionary, exhaustive, greedy, random_search, single_shot
from .diverse import solve_diverse
from .errors import InvalidProblem, InvalidSelection, SolverError, SolverUnavailable
from .feasibility import Explanation, explain, fastest
from .frontier import frontier
from .ilp import solve
from .problem import CountLimit, Credit, DistanceLimit, Limit, SelectionProblem
from .program import available_solvers
from .solution import Solution, Termination
from .verify import check, violations

__all__ = [
    "CountLimit",
    "Credit",
    "DistanceLimit",
    "Explanation",
    "InvalidProblem",
    "InvalidSelection",
    "Limit",
    "SelectionProblem",
    "Solution",
    "SolverError",
    "SolverUnavailable",
    "Termination",
    "available_solvers",
    "beam_search",
    "check",
    "evolutionary",
    "exhaustive",
    "explain",
    "fastest",
    "frontier",
    "greedy",
    "random_search",
    "single_shot",
    "solve",
    "solve_diverse",
    "violations",
]
