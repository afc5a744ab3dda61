"""Table and scores and budget → a student that measures within it: the closed loop.

First the loss of some students near the budget is measured, which corrects the scores (`lana.selection.loss_model`).
Then: solve → build → export → measure → refit the prediction → solve again, until a selection is accepted: the upper
95% bound of its measured latency is within the budget. Every measurement is logged; the loop is a function of the
offers, the scores and the logs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lana.errors import BudgetUnreachable, LanaError, UserError
from lana.models.selection import Pair, Selection
from lana.pool.candidates import Offer
from lana.runs.baseline import PROCESSES
from lana.selection.latency_model import Prediction, PredictionError, Whole, fit, held_out_error, total
from lana.selection.loss_model import Losses, corrected
from lana.selection.measurement_log import Log, LossLog, Measured
from profilers.comparison import Comparison
from solvers import Limit, SelectionProblem, Solution, fastest, solve, solve_diverse

Measure = Callable[[Sequence[Selection], int], list[Comparison]]
MeasureLoss = Callable[[Sequence[Selection]], list[float]]

MARGIN = 0.01  # least share kept below the budget: how far two measurements of one file lie apart on a quiet machine
FEW = 4  # selections measured twice, from which on it is known how far they lie apart here
WELL_USED = 0.95  # of the budget; below it another round may find a better selection
ROUNDS = 4
LOWER = 0.9  # what is aimed at next, of a latency at which nothing was accepted
STEPS_LOWER = 3  # of these measured together: what a process costs is mostly its start
FAR = 1.2  # times the budget: a fastest selection that measures so slow is not made fast enough by a refit
LOWEST_BUDGET = 0.2  # of the teacher's latency: from here on latencies are corrected, and students measured for that
SHAKEN = 1.0  # deviation of the logarithm of the factors that others are chosen under
REFINE_ROUNDS = 3  # of measuring losses, each around what the ones before made of the scores
PERTURBATIONS = (0.3, 1.0)  # deviations of the logarithm of the losses that other students are drawn with


@dataclass(kw_only=True)
class Selector:
    """Solves for one run's pool: what is offered, what it loses, what was measured.

    `offers` are those that are kept; `losses` maps (layer, operation) to its score. `measure(selections, processes)`
    builds and measures whole students beside the teacher; `measure_loss(selections)` is their distance to it, on
    `refine` students for each budget (none: the paper's plain sum of scores). Latencies are predicted by a fit on
    measured students, `calibrate` of them before the first solve, from a share `lowest` of the teacher's latency on.
    """

    layers: Sequence[str]
    offers: Sequence[Offer]
    losses: Mapping[Pair, float]
    teacher_ms: float
    log: Log
    measure: Measure
    loss_log: LossLog
    measure_loss: MeasureLoss
    refine: int = 0
    calibrate: int = 0
    lowest: float = LOWEST_BUDGET
    pins: Mapping[str, str] = field(default_factory=dict)  # layer → the operation that must stand there
    seed: int = 0
    _corrected: dict[tuple[float, int, int, str], Losses] = field(default_factory=dict, init=False, repr=False)
    _fitted: tuple[tuple[str, int], Prediction] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        position = {name: index for index, name in enumerate(self.layers)}
        self._first = np.array([position[offer.layer.members[0]] for offer in self.offers])
        self._span = np.array([len(offer.layer.members) for offer in self.offers])
        for layer, operation in self.pins.items():
            if not any(offer.layer.name == layer and offer.operation == operation for offer in self.offers):
                here = [offer.operation for offer in self.offers if offer.layer.name == layer]
                raise UserError(
                    f"--pin {layer}={operation}: "
                    + (
                        f"at {layer} there are {', '.join(here)}."
                        if here
                        else f"there is no layer {layer!r} in the pool."
                    )
                )
        self._by_name = {offer.pair: offer for offer in self.offers}

    # --- prediction ------------------------------------------------------------------------------------------------

    def wholes(self) -> list[Whole]:
        """The teacher and measured students, as the prediction's fit reads them.

        Those that came out below all budgets that are likely would bend it for all others: they are left out, unless
        they were measured for a budget.
        """
        teacher = Whole(columns=self._columns(Selection()), measured_ms=self.teacher_ms)
        measured = [
            m
            for m in self.log.pooled()
            if self._known(m.selection) and (m.ratio >= self.lowest or len(m.ratios) >= PROCESSES)
        ]
        return [
            teacher,
            *(Whole(columns=self._columns(m.selection), measured_ms=m.ratio * self.teacher_ms) for m in measured),
        ]

    def prediction(self) -> Prediction:
        """Fitted anew only when something more was measured: a report or a problem asks for it hundreds of times."""
        known = (self.log.loop, len(self.log.rows))
        if self._fitted is None or self._fitted[0] != known:
            self._fitted = (known, fit(self.wholes()))
        return self._fitted[1]

    def prediction_error(self) -> PredictionError | None:
        return held_out_error(self.wholes())

    def predicted_ms(self, selection: Selection) -> float:
        return self.prediction().whole_ms([offer.columns for offer in self._parts(selection)])

    def expected_loss(self, selection: Selection, around_ms: float | None = None) -> float:
        """What a student is expected to lose: the sum of scores, corrected around a latency (default: its own)."""
        losses = self.corrected_losses(around_ms or self.predicted_ms(selection))
        return losses.whole(offer.pair for offer in self._parts(selection))

    def corrected_losses(self, around_ms: float) -> Losses:
        """The scores corrected by the students whose loss was measured, those around a latency above all."""
        if not self.refine:
            return Losses(of=self.losses)
        place = (
            max(0.01, round(around_ms / self.teacher_ms, 2)),
            len(self.loss_log.rows),
            len(self.log.rows),
            self.log.loop,
        )
        if place not in self._corrected:
            teacher = (Selection(), 0.0)  # a student of known loss like any other
            finite = [(selection, loss) for selection, loss in self.loss_log.rows if math.isfinite(loss)]
            known = [teacher, *(row for row in finite if self._known(row[0]))]
            latencies_ms = np.array([self.predicted_ms(selection) for selection, _ in known])
            # Below the fastest of them, what holds for that one holds best: the plain sum promises far too much.
            distances = latencies_ms / max(place[0] * self.teacher_ms, latencies_ms.min()) - 1
            self._corrected[place] = corrected(self.losses, known, list(distances))
        return self._corrected[place]

    def _known(self, selection: Selection) -> bool:
        return all(pair in self._by_name for pair in selection.items())

    def _allowed(self, selection: Selection) -> bool:
        if not self._known(selection):
            return False
        stands = dict.fromkeys(self.standing(selection), "")
        stands |= selection  # under its own name; what a span covers holds nothing else
        return all(stands.get(layer, "teacher") == operation for layer, operation in self.pins.items())

    def standing(self, selection: Selection) -> dict[str, Offer]:
        """Layer → what stands there, or for a span that covers it; layers that are not named keep the teacher's own."""
        return {
            member: self._by_name[pair] for pair in selection.items() for member in self._by_name[pair].layer.members
        }

    def _parts(self, selection: Selection) -> list[Offer]:
        covered = self.standing(selection)
        own = [self._by_name[layer, "teacher"] for layer in self.layers if layer not in covered]
        return [*own, *(self._by_name[pair] for pair in selection.items())]

    def _columns(self, selection: Selection) -> dict[str, float]:
        return total([offer.columns for offer in self._parts(selection)])

    # --- solving ---------------------------------------------------------------------------------------------------

    def problem(self, budget_ms: float, around_ms: float | None = None) -> SelectionProblem:
        """Least expected loss within a predicted latency, every layer covered exactly once.

        Losses are those corrected `around_ms` (default: the budget).
        """
        prediction, losses = self.prediction(), self.corrected_losses(around_ms or budget_ms)
        cost = np.array([prediction.part_ms(offer.columns) for offer in self.offers])
        return SelectionProblem(
            layers=len(self.layers),
            loss=np.array([losses.of[offer.pair] for offer in self.offers]),
            first=self._first,
            span=self._span,
            costs={"latency_ms": cost},
            limits={"latency_ms": Limit(upper=prediction.limit_ms(budget_ms))},
            fixed=tuple(
                index for index, offer in enumerate(self.offers) if self.pins.get(offer.layer.name) == offer.operation
            ),
            names=tuple(f"{offer.operation} at {offer.layer.name}" for offer in self.offers),
        )

    def selection_of(self, solution: Solution) -> Selection:
        return Selection(self.offers[index].pair for index in solution.chosen)

    def solve(self, budget_ms: float) -> Selection | None:
        """The best selection within a predicted latency; None where there is none."""
        solution = solve(self.problem(budget_ms), seed=self.seed)
        return self.selection_of(solution) if solution.found else None

    def solve_diverse(self, budget_ms: float, count: int, around_ms: float | None = None) -> list[Selection]:
        """Up to `count` selections near the optimum that differ in at least a tenth of the layers, best first."""
        problem = self.problem(budget_ms, around_ms)
        minimum = max(1, round(0.1 * len(self.layers)))
        return [self.selection_of(s) for s in solve_diverse(problem, count=count, minimum_distance=minimum) if s.found]

    def fastest(self) -> Selection:
        """The selection of least predicted latency."""
        solution = fastest(self.problem(self.teacher_ms), "latency_ms")
        if not solution.found:
            raise LanaError("The solver found no selection at all although every layer has its teacher's operation.")
        return self.selection_of(solution)

    def fastest_within(self, max_loss: float) -> Selection:
        """The selection of least predicted latency that loses at most `max_loss`: measured, unless nothing refines.

        Raises:
            UserError: none is that good.
        """
        if not max_loss >= 0:
            raise UserError(f"--max-loss {max_loss:g}: no selection loses that little. The teacher itself loses 0.")
        found = Selection()
        too_low, enough = self.predicted_ms(self.fastest()), self.teacher_ms
        while enough - too_low > 0.005 * self.teacher_ms:
            between = (too_low + enough) / 2
            selection = self.solve(between)
            if selection is not None and self.expected_loss(selection, between) <= max_loss:
                self.measure_losses([selection])
            if selection is not None and self.known_loss(selection, between) <= max_loss:
                found, enough = selection, between
            else:
                too_low = between
        if not found:
            raise UserError(
                f"Within a loss of {max_loss:g} nothing is faster than the teacher. Give a larger --max-loss."
            )
        return found

    def draw(
        self,
        budget_ms: float,
        count: int,
        *,
        width: float = 0.05,
        noises: Sequence[float] = PERTURBATIONS,
        seed: int = 0,
    ) -> list[Selection]:
        """Different selections within `width` of a predicted latency, by solving with the losses perturbed."""
        problem = self.problem(budget_ms)
        low, high = (self.prediction().limit_ms(budget_ms * side) for side in (1 - width, 1 + width))
        random = np.random.default_rng(seed)
        found: list[Selection] = []
        for attempt in range(4 * count):
            if len(found) >= count:
                break
            noise = np.exp(random.normal(0.0, noises[attempt % len(noises)], problem.size))
            limit = Limit(lower=low, upper=random.uniform(low + 0.2 * (high - low), high))
            perturbed = dataclasses.replace(problem, loss=problem.loss * noise, limits={"latency_ms": limit})
            solution = solve(perturbed, gap=1e-2, seed=seed)
            if solution.found and (selection := self.selection_of(solution)) not in found:
                found.append(selection)
        return found

    # --- the loop --------------------------------------------------------------------------------------------------

    def measure_spread(self) -> None:
        """Measure students spread over the range of latency, so that the first solve is corrected already."""
        if len(self.log.pooled()) >= self.calibrate:
            return
        shares, rng = np.linspace(0.0, 0.95, self.calibrate), np.random.default_rng(self.seed)
        self.measure_new([*self.spread(shares[::2]), *self._shaken(shares[1::2], rng)], processes=3)

    def _shaken(self, shares: Iterable[float], rng: np.random.Generator) -> list[Selection]:
        """Students spread as those of `spread`, each the best under losses of its own: those of one set are alike."""
        found = []
        for budget_ms in self._budgets(shares):
            losses = {pair: loss * float(rng.lognormal(0.0, SHAKEN)) for pair, loss in self.losses.items()}
            found.append(dataclasses.replace(self, losses=losses).solve(budget_ms))
        return [selection for selection in found if selection]

    def spread(self, shares: Iterable[float]) -> list[Selection]:
        """The best selection at each share of the way from the lowest budget to the teacher's latency."""
        found = [self.solve(budget_ms) for budget_ms in self._budgets(shares)]
        return [selection for selection in found if selection]

    def _budgets(self, shares: Iterable[float]) -> list[float]:
        low = max(self.predicted_ms(self.fastest()), self.lowest * self.teacher_ms)
        return [low + share * (self.teacher_ms - low) for share in shares]

    def measure_new(self, selections: Sequence[Selection], processes: int) -> None:
        """Measure those that were not measured in so many processes yet, in as many more."""
        wanted: list[Selection] = []
        had = processes
        for selection in selections:
            measured = self.log.of(selection)
            count = len(measured.ratios) if measured is not None else 0
            if selection and count < processes and selection not in wanted:
                wanted.append(selection)
                had = min(had, count)
        processes -= had
        if wanted and not self.log.take(wanted):
            self.log.add(wanted, self.measure(wanted, processes))

    def correct_losses(self, budget_ms: float) -> None:
        """Measure the loss of students near the budget, a third of them at a time: the best by what is known of the
        scores so far, and others around them, so that what the sum misses shows."""
        for turn in range(REFINE_ROUNDS if self.refine else 0):
            count = -(-self.refine // REFINE_ROUNDS)
            near = self.solve_diverse(budget_ms, -(-count // 2))
            near += [s for s in self.draw(budget_ms, count, seed=self.seed + turn) if s not in near]
            self.measure_losses([s for s in near if s and self.loss_log.of(s) is None][:count])

    def measure_losses(self, selections: Sequence[Selection]) -> None:
        """Measure the loss of those of which it is not known; of none where nothing refines."""
        new = [s for s in selections if self.refine and s and self.loss_log.of(s) is None]
        unknown = [s for s in new if self.loss_log.ever(s) is None]
        fresh = dict(zip(unknown, self.measure_loss(unknown) if unknown else [], strict=True))
        self.loss_log.add(new, [fresh[s] if s in fresh else self.loss_log.ever(s) or 0.0 for s in new])

    def choice(self, budget_ms: float) -> Selection | None:
        """The selection of least loss within a predicted latency: the program's, or a better one that was measured."""
        solved = self.solve(budget_ms)
        measured = [s for s, _ in self.loss_log.rows if self._allowed(s) and self.predicted_ms(s) <= budget_ms]
        known = [*([solved] if solved else []), *measured]
        return min(known, key=lambda selection: self.known_loss(selection, budget_ms), default=None)

    def known_loss(self, selection: Selection, around_ms: float) -> float:
        """Measured, or what is expected around a latency: one for all that are compared, since no correction holds far
        from where losses were measured."""
        measured = self.loss_log.of(selection)
        return self.expected_loss(selection, around_ms) if measured is None else measured

    def accepted(self, budget_ms: float) -> list[Measured]:
        """Measured selections whose upper 95% bound lies within the budget, less the `margin`; least loss first."""
        limit = self._limit(budget_ms)
        return [m for m in self._within(budget_ms) if m.ratio_upper95 <= limit]

    @property
    def margin(self) -> float:
        """The share kept below a budget: how far two measurements of one selection lie apart in this run's log, in the
        median; at least `MARGIN`."""
        apart = self.log.apart()
        return max(MARGIN, float(np.median(apart))) if len(apart) >= FEW else MARGIN

    def _limit(self, budget_ms: float) -> float:
        return budget_ms * (1 - self.margin) / self.teacher_ms

    def _within(self, budget_ms: float) -> list[Measured]:
        """Those whose median is, least loss first."""
        limit = self._limit(budget_ms)
        within = [m for m in self.log.pooled() if m.ratio <= limit and self._allowed(m.selection)]
        return sorted(within, key=lambda m: self.known_loss(m.selection, budget_ms))

    def select(self, budget_ms: float, *, candidates: int, loop: str = "") -> list[Measured]:
        """Accepted selections for the budget, least expected loss first, at most `candidates`.

        `loop` names this search in the log: repeated under the same name, it decides as it did before.

        Raises:
            BudgetUnreachable: the fastest selection measures above the budget; its figure is given.
        """
        loop = loop or f"{budget_ms:.6g} ms"
        self.log, self.loss_log = self.log.replay(loop), self.loss_log.replay(loop)
        self._refuse_what_is_far_too_low(budget_ms)
        self.measure_spread()
        self.correct_losses(budget_ms)
        target_ms = budget_ms * (1 - MARGIN - self.margin)
        for _ in range(ROUNDS):
            found = [selection for selection in self.solve_diverse(target_ms, candidates) if selection]
            self.measure_new(found or [self.fastest()], PROCESSES)
            accepted = self.accepted(budget_ms)
            best = next((m for m in accepted if m.selection in found), None)
            if best and best.ratio * self.teacher_ms >= WELL_USED * budget_ms:
                self.measure_new([best.selection], 2 * PROCESSES)
                if any(m.selection == best.selection for m in self.accepted(budget_ms)):
                    break
                best = None
            if best:  # within, and room is left: aim higher
                target_ms *= min(1.05, budget_ms * (1 - MARGIN - self.margin) / (best.ratio * self.teacher_ms))
                target_ms = min(target_ms, 0.99 * self.predicted_ms(Selection()))
            elif found:  # the prediction was refitted; what it still misses is kept below the budget as well
                measured = [m for s in found if (m := self.log.of(s)) is not None]
                least = min(measured, key=lambda m: m.ratio_upper95)
                missed = least.ratio_upper95 * self.teacher_ms / self.predicted_ms(least.selection)
                target_ms = min(0.99 * target_ms, budget_ms * (1 - self.margin) / missed)
        return self._confirmed(budget_ms, target_ms, candidates)

    def _refuse_what_is_far_too_low(self, budget_ms: float) -> None:
        """Nothing else is measured for a budget that the fastest misses by more than a correction may move it."""
        if budget_ms >= self.lowest * self.teacher_ms and self.solve(budget_ms) is not None:
            return
        selection = self.fastest()
        self.measure_new([selection], PROCESSES)
        measured = self.log.of(selection)
        if measured is None or measured.ratio * self.teacher_ms > FAR * budget_ms:
            raise self.unreachable(budget_ms)

    def _confirmed(self, budget_ms: float, target_ms: float, candidates: int) -> list[Measured]:
        """Accepted selections near the budget; where there is none, the next lower ones are measured before a still
        lower one is taken that loses more than they do."""
        while True:
            accepted = self._sure(budget_ms, candidates)
            slowest_ms = max((m.ratio * self.teacher_ms for m in accepted), default=0.0)
            if slowest_ms >= LOWER * min(budget_ms, target_ms):
                return accepted
            targets = [target_ms * LOWER**step for step in range(1, STEPS_LOWER + 1)]
            ahead = [self.solve_diverse(each, candidates, around_ms=budget_ms) for each in targets]
            target_ms = targets[-1]
            least = min((self.known_loss(selection, budget_ms) for selection in ahead[0]), default=math.inf)
            if accepted and self.known_loss(accepted[0].selection, budget_ms) <= least:
                return accepted
            lower = [selection for step in ahead for selection in step]
            self.measure_new(lower or [self.fastest()], PROCESSES if lower else 2 * PROCESSES)
            if not lower and not self.accepted(budget_ms):
                raise self.unreachable(budget_ms)

    def _sure(self, budget_ms: float, candidates: int) -> list[Measured]:
        """The accepted ones, after a second, later measurement of each, as the first may have been lucky, and with
        their losses measured.

        So are those that lose less, whose median is within the budget while its bound is not yet: on a machine that is
        disturbed that is most of those near the budget.
        """
        while True:
            within, limit = self._within(budget_ms), self._limit(budget_ms)
            accepted = [m for m in within if m.ratio_upper95 <= limit][:candidates]
            better = within[: within.index(accepted[0])] if accepted else within
            near = [m for m in better if m.ratio >= LOWER * limit]
            looked_at = [*accepted, *[m for m in near if len(m.ratios) < 2 * PROCESSES][:candidates]]
            again = [m.selection for m in looked_at if len(m.ratios) < 2 * PROCESSES]
            unknown = [m.selection for m in looked_at if self.loss_log.of(m.selection) is None]
            if not again and not (self.refine and unknown):
                return accepted
            self.measure_losses(unknown)
            self.measure_new(again, 2 * PROCESSES)

    def unreachable(self, budget_ms: float) -> BudgetUnreachable:
        """The error that says what the fastest reachable latency is, measured."""
        self.measure_new([self.fastest()], PROCESSES)
        measured = [m for m in self.log.pooled() if self._allowed(m.selection)]
        who, fastest_ms = "teacher itself is the fastest and", self.teacher_ms
        if measured:
            best = min(measured, key=lambda m: m.ratio)
            who = "fastest reachable student"
            surely = best.ratio_upper95 if math.isfinite(best.ratio_upper95) else 1.02 * best.ratio
            fastest_ms = 1.001 * surely * self.teacher_ms / (1 - self.margin)  # and as much as is told below in digits
        return BudgetUnreachable(
            f"No selection meets {budget_ms:.4g} ms: the {who} needs {fastest_ms:.4g} ms "
            f"({fastest_ms / self.teacher_ms:.2f}x of the teacher's {self.teacher_ms:.4g} ms). Raise the budget, widen "
            "--layers, or offer faster operations with --pool.",
            fastest_ms=fastest_ms,
        )
