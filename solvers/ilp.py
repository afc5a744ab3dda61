"""The integer program: exact, within a stated gap, or honest about why not."""

import time
from collections.abc import Sequence
from math import inf

import numpy as np

from .cover import Cover
from .credits import columns_of
from .problem import SelectionProblem
from .program import Outcome, Settings, require_solver, run_program
from .reduction import reduced
from .relaxation import Relaxation, priced_paths, relax
from .rows import Rows, rows_of
from .solution import Solution, Termination
from .verify import check, totals, violations

# Selections that a solver returned and the check refused are excluded one by one; more than this is a broken solver.
REFUSALS = 50
GAP = 1e-4  # relative, far below what scores can tell apart


def solve(
    problem: SelectionProblem,
    *,
    solver: str = "HiGHS",
    time_limit_s: float = 60.0,
    gap: float = GAP,
    seed: int = 0,
) -> Solution:
    """The selection of least loss.

    Args:
        solver: a name of PuLP's ("HiGHS", "CBC", "GUROBI" …); see `available_solvers`.
        time_limit_s: the best selection found by then is returned, as `feasible_at_limit`.
        gap: proven relative distance to the optimum at which to stop; 0 asks for the optimum itself.
        seed: of the solver's own random choices (HiGHS and CBC).

    Raises:
        SolverUnavailable: the solver is unknown or not installed.
        InvalidSelection: the solver's answer breaks the problem, again and again.

    >>> from solvers import Limit, SelectionProblem, solve
    >>> problem = SelectionProblem(
    ...     layers=2, loss=[0.0, 0.5, 0.0, 0.1], first=[0, 0, 1, 1], span=[1, 1, 1, 1],
    ...     costs={"ms": [2.0, 1.0, 2.0, 1.0]}, limits={"ms": Limit(upper=3.0)})
    >>> solution = solve(problem)  # 2 ms + 1 ms: only the cheap choice of layer 1 (loss 0.1) is needed
    >>> solution.chosen, solution.objective, str(solution.termination)
    ((0, 3), 0.1, 'optimal')
    """
    started = time.monotonic()
    require_solver(solver)
    search = _Search(problem, Settings(solver=solver, time_limit_s=time_limit_s, gap=gap, seed=seed), started)
    search.run()
    return search.solution()


class _Search:
    """One solve: reduce, bound, then integer programs over ever more columns until the rest is proven useless."""

    def __init__(self, problem: SelectionProblem, settings: Settings, started: float) -> None:
        self.problem, self.settings, self.started = problem, settings, started
        self.deadline = started + settings.time_limit_s
        self.chosen: tuple[int, ...] = ()
        self.objective = inf
        self.bound = -inf
        self.exhausted = False
        self.message = ""
        self.cuts: list[list[int]] = []
        self.largest = 1.0  # loss of a choice

    def run(self) -> None:
        self.kept = reduced(self.problem)
        if not len(self.kept):
            self.bound, self.exhausted = inf, True
            return
        self.kept, cover, loss = columns_of(self.problem, self.kept)
        rows = rows_of(self.problem, self.kept)
        self.largest = float(np.abs(loss).max()) or 1.0
        relaxation = relax(cover, loss, rows, visit=self._consider, deadline_s=self.deadline)
        self.bound = relaxation.bound
        if len(rows) and not self._done():
            priced_paths(
                cover,
                loss,
                rows,
                relaxation.multipliers,
                good_enough=lambda path: self._consider(path) and self._done(),
            )
        self._grow(cover, loss, rows, relaxation)

    def _grow(self, cover: Cover, loss: np.ndarray, rows: Rows, relaxation: Relaxation) -> None:
        excess = relaxation.excess.copy()
        place = {int(choice): i for i, choice in enumerate(self.kept)}
        for tie in self.problem.ties:
            members = [place[choice] for choice in tie if choice in place]
            # Taking one means taking all, so what bounds one of them from below bounds each.
            excess[members] = excess[members].max(initial=0.0)
        start = min(len(excess), 6 * cover.layers + 50)
        threshold = float(np.partition(excess, start - 1)[start - 1])
        while not self._done():
            if self.objective < inf:
                threshold = min(threshold, self.objective - relaxation.bound)
            inside = excess <= threshold + self.small
            outcome = self._integer(cover, loss, rows, np.flatnonzero(inside))
            beyond = float(excess[~inside].min(initial=inf))
            if outcome.termination is Termination.infeasible:
                proven = relaxation.bound + beyond
            else:
                proven = min(outcome.bound, relaxation.bound + beyond)
            self.bound = max(self.bound, proven)
            if beyond == inf:
                self.exhausted = outcome.termination in (Termination.optimal, Termination.infeasible)
                return
            if time.monotonic() > self.deadline or outcome.termination is Termination.error:
                return
            wider = threshold * 4 if threshold > 0 else beyond
            threshold = max(beyond, self.objective - relaxation.bound if self.objective < inf else wider)

    def _integer(self, cover: Cover, loss: np.ndarray, rows: Rows, columns: np.ndarray) -> Outcome:
        """The integer program over some columns; answers that the check refuses are excluded."""
        for _ in range(REFUSALS):
            left_s = self.deadline - time.monotonic()
            if left_s <= 0:
                return Outcome(termination=Termination.no_solution)
            settings = Settings(
                solver=self.settings.solver, time_limit_s=left_s, gap=self.settings.gap, seed=self.settings.seed
            )
            outcome = run_program(cover, loss, rows, columns, settings, cuts=self.cuts)
            self.message = outcome.message
            if not outcome.chosen or self._consider(outcome.chosen):
                return outcome
            self.cuts.append([c for c in outcome.chosen if self.kept[c] < self.problem.size])
        check(self.problem, self._original(outcome.chosen))
        return outcome

    def _original(self, chosen: Sequence[int]) -> tuple[int, ...]:
        choices = [int(self.kept[c]) for c in chosen if self.kept[c] < self.problem.size]
        return tuple(sorted(choices, key=lambda c: int(self.problem.first[c])))

    def _consider(self, chosen: list[int]) -> bool:
        """Keep a selection if it is valid and the best so far; whether it is valid."""
        if not chosen:
            return False
        selection = self._original(chosen)
        loss, _ = totals(self.problem, selection)
        if violations(self.problem, selection):
            return False
        if loss < self.objective:
            self.objective, self.chosen = loss, selection
        return True

    @property
    def small(self) -> float:
        """The rounding error of the sum of the chosen losses; a single huge loss elsewhere must not inflate it."""
        chosen = float(np.abs(self.problem.loss[list(self.chosen)]).max()) if self.chosen else self.largest
        return 1e-9 * (chosen or 1e-3 * self.largest)

    def _done(self) -> bool:
        if self.objective == inf:  # any share of infinity is infinite
            return False
        return self.objective - self.bound <= max(self.settings.gap * abs(self.objective), self.small)

    def solution(self) -> Solution:
        runtime_s = time.monotonic() - self.started
        if not self.chosen:
            proven = self.exhausted or self.bound == inf
            missing = Termination.infeasible if proven else Termination.no_solution
            if self.message:
                missing = Termination.error
            return Solution(termination=missing, bound=self.bound, runtime_s=runtime_s, message=self.message)
        check(self.problem, self.chosen)
        done = self._done()
        return Solution(
            termination=Termination.optimal if done else Termination.feasible_at_limit,
            chosen=self.chosen,
            objective=self.objective,
            bound=min(self.bound, self.objective),
            costs=totals(self.problem, self.chosen)[1],
            runtime_s=runtime_s,
            message=self.message,
        )
