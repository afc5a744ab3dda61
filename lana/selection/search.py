"""Model and budget → students that measure within it: the closed loop.

The loss of some students near the budget is measured first, which corrects the scores (`lana.selection.loss_model`).
Then: solve → build → export → measure → refit the prediction → solve again, until a selection is accepted: the upper
95% bound of its measured latency is within the budget. Every measurement is logged; the loop is a function of the
candidates, the scores and the log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lana.errors import BudgetUnreachable, UserError
from lana.models.selection import Selection
from lana.runs.baseline import PROCESSES
from lana.selection.acceptance import accepted, budget_margin, limit_ratio, target_ms, within
from lana.selection.int8_baselines import int8_baselines
from lana.selection.measurement_log import MeasuredLatency, MeasurementLog
from lana.selection.program import SelectionModel
from lana.selection.sampling import sample, spread, spread_perturbed
from profilers import Comparison

SURE_PROCESSES = 2 * PROCESSES  # in which a student is measured before it is delivered
CALIBRATION_PROCESSES = 3  # in which one is measured that only corrects predictions
GOOD_USE_RATIO = 0.95  # of the budget; below it another round may find a better selection
MAX_ROUNDS = 4
LOWER_TARGET_RATIO = 0.9  # the next target over the one at which nothing was accepted
LOWER_TARGETS = 3  # measured together: a process costs mostly its start
UNREACHABLE_RATIO = 1.2  # of the budget: a refit does not make a fastest selection fit that measures slower
REFINE_ROUNDS = 3  # of measuring losses, each around what the ones before made of the scores


class Measurer(Protocol):
    """Builds students and measures them."""

    def latencies(self, selections: Sequence[Selection], processes: int) -> list[Comparison]:
        """Beside the teacher, each in so many fresh processes."""

    def losses(self, selections: Sequence[Selection]) -> list[float]:
        """Mean distances of their outputs to the teacher's."""


@dataclass(kw_only=True)
class BudgetSearch:
    """Searches one run's pool for students within a budget, by measuring what the model proposes.

    The losses of `refinement_students` are measured for each budget (0: the paper's plain sum of scores), the latencies
    of `calibration_students` before the first solve.
    """

    model: SelectionModel
    measurer: Measurer
    log: MeasurementLog
    refinement_students: int = 0
    calibration_students: int = 0

    def __post_init__(self) -> None:
        self.model = self.model.informed_by(self.log)

    def begin(self, name: str) -> None:
        """Know what was known when the search of this name began; repeated, it decides as it did before."""
        self.log = self.log.replay(name)
        self.model = self.model.informed_by(self.log)

    def select(self, budget_ms: float, *, proposals: int, name: str = "") -> list[MeasuredLatency]:
        """Accepted selections for the budget, least expected loss first, at most `proposals`.

        Raises:
            BudgetUnreachable: the fastest selection measures above the budget; its figure is given.
        """
        self.begin(name or f"{budget_ms:.6g} ms")
        self.refuse_unreachable(budget_ms)
        self.calibrate()
        self.refine(budget_ms)
        aimed_ms = target_ms(self.model, budget_ms)
        for _ in range(MAX_ROUNDS):
            proposed = self.propose(aimed_ms, proposals)
            best = next((one for one in accepted(self.model, budget_ms) if one.selection in proposed), None)
            if best and best.ratio * self.model.teacher_ms >= GOOD_USE_RATIO * budget_ms:
                if self.verify(best.selection, budget_ms):
                    break
                best = None
            aimed_ms = self.next_target_ms(budget_ms, aimed_ms, proposed, best)
        return self.confirm(budget_ms, aimed_ms, proposals)

    # --- steps of the loop -----------------------------------------------------------------------------------------

    def refuse_unreachable(self, budget_ms: float) -> None:
        """Nothing else is measured for a budget that the fastest misses by more than a correction may move it."""
        model = self.model
        if budget_ms >= model.lowest_ratio * model.teacher_ms and model.solve(budget_ms) is not None:
            return
        selection = model.fastest()
        self.measure_latencies([selection], PROCESSES)
        measured = self.model.measured.get(selection)
        if measured is None or measured.ratio * model.teacher_ms > UNREACHABLE_RATIO * budget_ms:
            raise self.unreachable(budget_ms)

    def calibrate(self) -> None:
        """Measure students spread over the range of latency, so that the first solve is corrected already."""
        if len(self.model.measured) >= self.calibration_students:
            return
        shares, rng = np.linspace(0.0, 0.95, self.calibration_students), np.random.default_rng(self.model.seed)
        selections = [*spread(self.model, shares[::2]), *spread_perturbed(self.model, shares[1::2], rng)]
        self.measure_latencies(selections, CALIBRATION_PROCESSES)

    def refine(self, budget_ms: float) -> None:
        """Measure the loss of students near the budget, a third of them at a time.

        They are the best by what is known of the scores so far, and others around them: so what the sum misses shows.
        """
        count = math.ceil(self.refinement_students / REFINE_ROUNDS)
        for turn in range(REFINE_ROUNDS if count else 0):
            near = self.model.diverse(budget_ms, math.ceil(count / 2))
            near += [s for s in sample(self.model, budget_ms, count, seed=self.model.seed + turn) if s not in near]
            self.measure_losses([s for s in near if s and s not in self.model.measured_losses][:count])

    def propose(self, aimed_ms: float, count: int) -> list[Selection]:
        """Solve for a predicted latency and measure the solutions; where there are none, the fastest selection.

        Beside them, what is got without the program: the teacher in int8, or structure first and int8 afterwards.
        """
        proposed = [selection for selection in self.model.diverse(aimed_ms, count) if selection]
        proposed += [selection for selection in int8_baselines(self.model, aimed_ms) if selection not in proposed]
        self.measure_latencies(proposed or [self.model.fastest()], PROCESSES)
        return proposed

    def verify(self, selection: Selection, budget_ms: float) -> bool:
        """Whether a second, later measurement leaves it accepted: the first may have been lucky."""
        self.measure_latencies([selection], SURE_PROCESSES)
        return any(one.selection == selection for one in accepted(self.model, budget_ms))

    def next_target_ms(
        self, budget_ms: float, aimed_ms: float, proposed: Sequence[Selection], best: MeasuredLatency | None
    ) -> float:
        """Higher where the best accepted one leaves room, else lower by what the prediction missed."""
        model = self.model
        if best is not None:
            higher_ms = aimed_ms * min(1.05, target_ms(model, budget_ms) / (best.ratio * model.teacher_ms))
            return min(higher_ms, 0.99 * model.predicted_ms(Selection()))
        measured = [model.measured[selection] for selection in proposed if selection in model.measured]
        if not measured:
            return aimed_ms
        least = min(measured, key=lambda one: one.ratio_upper95)
        missed = least.ratio_upper95 * model.teacher_ms / model.predicted_ms(least.selection)
        return min(0.99 * aimed_ms, budget_ms * (1 - budget_margin(model)) / missed)

    def confirm(self, budget_ms: float, aimed_ms: float, proposals: int) -> list[MeasuredLatency]:
        """Accepted selections near the budget, each measured twice.

        Where there is none, the next lower ones are measured before a still lower one is taken that loses more.
        """
        while True:
            sure, model = self.measure_again(budget_ms, proposals), self.model
            slowest_ms = max((one.ratio * model.teacher_ms for one in sure), default=0.0)
            if slowest_ms >= LOWER_TARGET_RATIO * min(budget_ms, aimed_ms):
                return sure
            targets_ms = [aimed_ms * LOWER_TARGET_RATIO**step for step in range(1, LOWER_TARGETS + 1)]
            ahead = [model.diverse(each_ms, proposals, around_ms=budget_ms) for each_ms in targets_ms]
            aimed_ms = targets_ms[-1]
            least = min((model.known_loss(selection, budget_ms) for selection in ahead[0]), default=math.inf)
            if sure and model.known_loss(sure[0].selection, budget_ms) <= least:
                return sure
            lower = [selection for step in ahead for selection in step]
            self.measure_latencies(lower or [model.fastest()], PROCESSES if lower else SURE_PROCESSES)
            if not lower and not accepted(self.model, budget_ms):
                raise self.unreachable(budget_ms)

    def measure_again(self, budget_ms: float, proposals: int) -> list[MeasuredLatency]:
        """The accepted ones, after a second, later measurement of each, with their losses measured.

        So are those that lose less, whose median is within the budget while its bound is not yet: on a machine that is
        disturbed that is most of those near the budget.
        """
        while True:
            fast, limit = within(self.model, budget_ms), limit_ratio(self.model, budget_ms)
            sure = [one for one in fast if one.ratio_upper95 <= limit][:proposals]
            better = fast[: fast.index(sure[0])] if sure else fast
            near = [one for one in better if one.ratio >= LOWER_TARGET_RATIO * limit]
            looked_at = [*sure, *[one for one in near if len(one.ratios) < SURE_PROCESSES][:proposals]]
            again = [one.selection for one in looked_at if len(one.ratios) < SURE_PROCESSES]
            unknown = [one.selection for one in looked_at if one.selection not in self.model.measured_losses]
            if not again and not (self.refinement_students and unknown):
                return sure
            self.measure_losses(unknown)
            self.measure_latencies(again, SURE_PROCESSES)

    # --- measuring -------------------------------------------------------------------------------------------------

    def measure_latencies(self, selections: Sequence[Selection], processes: int) -> None:
        """Measure those that were not measured in so many processes yet, in as many more."""
        had = {s: len(self.model.measured[s].ratios) if s in self.model.measured else 0 for s in selections if s}
        wanted = [selection for selection, count in had.items() if count < processes]
        if not wanted:
            return
        if not self.log.latencies.recall(wanted):
            more = processes - min(had[selection] for selection in wanted)
            self.log.latencies.add(wanted, self.measurer.latencies(wanted, more))
        self.model = self.model.informed_by(self.log)

    def measure_losses(self, selections: Sequence[Selection]) -> None:
        """Measure the loss of those of which it is not known; of none where nothing refines."""
        known = self.model.measured_losses
        new = [s for s in selections if self.refinement_students and s and s not in known]
        if not new:
            return
        unknown = [selection for selection in new if self.log.losses.get_any(selection) is None]
        fresh = dict(zip(unknown, self.measurer.losses(unknown) if unknown else [], strict=True))
        self.log.losses.add(new, [fresh[s] if s in fresh else self.log.losses.get_any(s) or 0.0 for s in new])
        self.model = self.model.informed_by(self.log)

    def unreachable(self, budget_ms: float) -> BudgetUnreachable:
        """The error that gives the fastest reachable latency, measured."""
        self.measure_latencies([self.model.fastest()], PROCESSES)
        model, margin = self.model, budget_margin(self.model)
        measured = [one for one in model.measured.values() if model.allows(one.selection)]
        who, fastest_ms = "teacher itself is the fastest and", model.teacher_ms
        if measured:
            best = min(measured, key=lambda one: one.ratio)
            who = "fastest reachable student"
            surely = best.ratio_upper95 if math.isfinite(best.ratio_upper95) else 1.02 * best.ratio
            fastest_ms = 1.001 * surely * model.teacher_ms / (1 - margin)  # and as much as the printed digits round off
        return BudgetUnreachable(
            f"No selection meets {budget_ms:.4g} ms: the {who} needs {fastest_ms:.4g} ms "
            f"({fastest_ms / model.teacher_ms:.2f}x of the teacher's {model.teacher_ms:.4g} ms). "
            "Raise the budget, widen --layers, or offer faster operations with --pool.",
            fastest_ms=fastest_ms,
        )


def fastest_within(search: BudgetSearch, max_loss: float) -> Selection:
    """The selection of least predicted latency that loses at most `max_loss`: measured, unless nothing refines.

    Raises:
        UserError: none is that good.
    """
    if not max_loss >= 0:
        raise UserError(f"--max-loss {max_loss:g}: no selection loses that little. The teacher itself loses 0.")
    found, teacher_ms = Selection(), search.model.teacher_ms
    too_low_ms, enough_ms = search.model.predicted_ms(search.model.fastest()), teacher_ms
    while enough_ms - too_low_ms > 0.005 * teacher_ms:
        between_ms = (too_low_ms + enough_ms) / 2
        selection = search.model.solve(between_ms)
        if selection is not None and search.model.expected_loss(selection, between_ms) <= max_loss:
            search.measure_losses([selection])
        if selection is not None and search.model.known_loss(selection, between_ms) <= max_loss:
            found, enough_ms = selection, between_ms
        else:
            too_low_ms = between_ms
    if not found:
        raise UserError(f"Within a loss of {max_loss:g} nothing is faster than the teacher. Give a larger --max-loss.")
    return found
