"""The result of a solver: how it ended, what it chose, what it proved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf


class Termination(StrEnum):
    """How a search ended.

    `optimal` is the only one that claims a proof (within the gap that was asked for); a time limit that strikes
    and every heuristic that finds something end as `feasible_at_limit`.
    """

    optimal = "optimal"
    feasible_at_limit = "feasible_at_limit"
    infeasible = "infeasible"
    no_solution = "no_solution"
    error = "error"


@dataclass(frozen=True, kw_only=True)
class Solution:
    """One selection and what is known about it.

    Attributes:
        chosen: indices of the choices, in the order of the layers they cover; empty where there is none.
        objective: the summed loss of `chosen`, less its credits; `inf` where there is none.
        bound: no selection whatsoever has a loss below this; `-inf` where nothing was proven.
        costs: the sum of every cost over `chosen` less its credits, by name; empty where there is no selection.
        runtime_s: wall time in seconds, building included.
        message: the message of a solver that failed; empty otherwise.

    >>> Solution(termination=Termination.optimal, chosen=(0, 3), objective=2.0, bound=1.9).gap
    0.05
    """

    termination: Termination
    chosen: tuple[int, ...] = ()
    objective: float = inf
    bound: float = -inf
    costs: Mapping[str, float] = field(default_factory=dict)
    runtime_s: float = 0.0
    message: str = ""

    @property
    def found(self) -> bool:
        """True if there is a selection."""
        return bool(self.chosen)

    @property
    def gap(self) -> float:
        """Proven relative distance to the optimum, (objective − bound) / |objective|; `inf` where nothing is proven."""
        if not self.chosen:
            return inf
        difference = max(self.objective - self.bound, 0.0)
        if difference == 0.0:
            return 0.0
        return round(difference / abs(self.objective), 12) if self.objective else inf
