"""Everything known of one pool on one device, and the selections that follow from it; nothing is measured here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lana.errors import LanaError, UserError
from lana.models.selection import Pair, Selection
from lana.pool.candidates import Candidate
from lana.runs.baseline import PROCESSES
from lana.selection.joins import credits, savings
from lana.selection.latency_model import MeasuredNetwork, Prediction, PredictionError, fit, held_out_error, total
from lana.selection.loss_model import Losses, corrected
from lana.selection.measurement_log import MeasuredLatency, MeasuredLoss, MeasurementLog, pooled
from solvers import Limit, SelectionProblem, Solution, fastest, solve, solve_diverse

LOWEST_BUDGET_RATIO = 0.2  # of the teacher's latency: from here on predicted latencies are corrected
MIN_DISTANCE_RATIO = 0.1  # of the layers: by how many two proposed selections differ at least


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectionModel:
    """Predicts and solves, given the candidates, their scores and the measured students.

    `scores` maps (layer, operation) to what the network loses with it. Measured `latencies` correct the predicted ones,
    from `lowest_ratio` of the teacher's on. Measured `losses` correct the scores, with `correct_scores`. From the
    `saturation` on they correct nothing: they do not tell one ruin from another. `pins` maps layers to the operations
    that they must get. All layers together take at most `most_bytes` of a file. At `borders`, pairs of layers, nothing
    is converted between int8 neighbours.

    Raises:
        UserError: no candidate is what a pin asks for.
    """

    layers: Sequence[str]
    candidates: Sequence[Candidate]
    scores: Mapping[Pair, float]
    teacher_ms: float
    latencies: Sequence[MeasuredLatency] = ()
    losses: Sequence[MeasuredLoss] = ()
    correct_scores: bool = False
    lowest_ratio: float = LOWEST_BUDGET_RATIO
    saturation: float = math.inf
    pins: Mapping[str, str] = field(default_factory=dict)
    most_bytes: float = math.inf
    seed: int = 0
    borders: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        for layer, operation in self.pins.items():
            if (layer, operation) not in self._by_pair:
                offered = ", ".join(one.operation for one in self.candidates if one.layer.name == layer)
                why = f"at {layer} there are {offered}." if offered else f"there is no layer {layer!r} in the pool."
                raise UserError(f"--pin {layer}={operation}: {why}")

    def informed_by(self, log: MeasurementLog) -> SelectionModel:
        """The model that knows what a log holds, and nothing else."""
        return dataclasses.replace(self, latencies=tuple(log.latencies.rows), losses=tuple(log.losses.rows))

    @cached_property
    def _by_pair(self) -> dict[Pair, Candidate]:
        return {candidate.pair: candidate for candidate in self.candidates}

    @cached_property
    def measured(self) -> dict[Selection, MeasuredLatency]:
        """Selection → its latency, pooled over the times that it was measured."""
        return pooled(self.latencies)

    @cached_property
    def measured_losses(self) -> dict[Selection, float]:
        return dict(reversed(self.losses))  # the first of each counts

    # --- prediction ------------------------------------------------------------------------------------------------

    def measured_networks(self) -> list[MeasuredNetwork]:
        """The teacher and measured students, as the latency model reads them.

        Students below all likely budgets would bend it for all others: only those measured for a budget count.
        """
        ratios = {
            selection: one.ratio
            for selection, one in self.measured.items()
            if self.knows(selection) and (one.ratio >= self.lowest_ratio or len(one.ratios) >= PROCESSES)
        }
        return [
            MeasuredNetwork(columns=total(self.columns(selection)), measured_ms=ratio * self.teacher_ms)
            for selection, ratio in {Selection(): 1.0, **ratios}.items()
        ]

    @cached_property
    def prediction(self) -> Prediction:
        return fit(self.measured_networks())

    def prediction_error(self) -> PredictionError | None:
        return held_out_error(self.measured_networks())

    def predicted_ms(self, selection: Selection) -> float:
        parts = self.parts(selection)
        saved = [saving.columns for saving in savings(parts, self.borders)]
        return self.prediction.network_ms([part.columns for part in parts], saved)

    def expected_loss(self, selection: Selection, around_ms: float | None = None) -> float:
        """The sum of a student's scores, corrected around a latency (default: its own)."""
        losses = self.corrected_scores(around_ms or self.predicted_ms(selection))
        return losses.total(part.pair for part in self.parts(selection))

    def known_loss(self, selection: Selection, around_ms: float) -> float:
        """Measured, or expected around a latency.

        That is one latency for all that are compared: no correction holds far from where losses were measured.
        """
        measured = self.measured_losses.get(selection)
        return self.expected_loss(selection, around_ms) if measured is None else measured

    def corrected_scores(self, around_ms: float) -> Losses:
        """The scores, corrected by the students whose loss was measured, those around a latency above all."""
        if not self.correct_scores:
            return Losses(of=self.scores)
        ratio = max(0.01, round(around_ms / self.teacher_ms, 2))
        if ratio not in self._corrected:
            finite = [row for row in self.losses if row.loss < self.saturation and self.knows(row.selection)]
            known = [MeasuredLoss(Selection(), 0.0), *finite]  # the teacher is a student of known loss
            latencies_ms = np.array([self.predicted_ms(selection) for selection, _ in known])
            # Below the fastest of them, what holds for that one holds best: the plain sum promises far too much.
            distances = latencies_ms / max(ratio * self.teacher_ms, latencies_ms.min()) - 1
            self._corrected[ratio] = corrected(self.scores, known, list(distances))
        return self._corrected[ratio]

    @cached_property
    def _corrected(self) -> dict[float, Losses]:
        return {}

    def knows(self, selection: Selection) -> bool:
        """Whether all its operations are among the candidates."""
        return all(pair in self._by_pair for pair in selection.items())

    def allows(self, selection: Selection) -> bool:
        """Whether all its operations are among the candidates, and those that are pinned among its operations."""
        if not self.knows(selection) or self.file_bytes(selection) > self.most_bytes:
            return False
        chosen = {**dict.fromkeys(self.covering(selection), ""), **selection}  # a span stands under its own name
        return all(chosen.get(layer, "teacher") == operation for layer, operation in self.pins.items())

    def covering(self, selection: Selection) -> dict[str, Candidate]:
        """Layer → the candidate that replaces it, alone or as a member of a span."""
        chosen = [self._by_pair[pair] for pair in selection.items()]
        return {member: candidate for candidate in chosen for member in candidate.layer.members}

    def parts(self, selection: Selection) -> list[Candidate]:
        """The candidates that a student consists of, the teacher's own included."""
        covered = self.covering(selection)
        own = [self._by_pair[layer, "teacher"] for layer in self.layers if layer not in covered]
        return [*own, *(self._by_pair[pair] for pair in selection.items())]

    def file_bytes(self, selection: Selection) -> float:
        return sum(part.file_bytes for part in self.parts(selection))

    def columns(self, selection: Selection) -> list[dict[str, float]]:
        """The columns of its parts, and of what is saved at the borders of int8 neighbours."""
        parts = self.parts(selection)
        return [*(part.columns for part in parts), *(saving.columns for saving in savings(parts, self.borders))]

    # --- solving ---------------------------------------------------------------------------------------------------

    def problem(self, budget_ms: float, around_ms: float | None = None) -> SelectionProblem:
        """Least expected loss within a predicted latency, every layer covered exactly once.

        Scores are those corrected `around_ms` (default: the budget).
        """
        losses, position = self.corrected_scores(around_ms or budget_ms), {n: i for i, n in enumerate(self.layers)}
        cost = np.array([self.prediction.part_ms(candidate.columns) for candidate in self.candidates])
        pinned = [self.pins.get(candidate.layer.name) == candidate.operation for candidate in self.candidates]
        return SelectionProblem(
            layers=len(self.layers),
            loss=np.array([losses.of[candidate.pair] for candidate in self.candidates]),
            first=np.array([position[candidate.layer.members[0]] for candidate in self.candidates]),
            span=np.array([len(candidate.layer.members) for candidate in self.candidates]),
            costs={"latency_ms": cost, "bytes": np.array([one.file_bytes for one in self.candidates])},
            limits={
                "latency_ms": Limit(upper=self.prediction.limit_ms(budget_ms)),
                **({"bytes": Limit(upper=self.most_bytes)} if math.isfinite(self.most_bytes) else {}),
            },
            fixed=tuple(index for index, fixed in enumerate(pinned) if fixed),
            credits=credits(self.candidates, self.borders, self.prediction),
            names=tuple(f"{candidate.operation} at {candidate.layer.name}" for candidate in self.candidates),
        )

    def selection_of(self, solution: Solution) -> Selection:
        return Selection(self.candidates[index].pair for index in solution.chosen)

    def solve(self, budget_ms: float) -> Selection | None:
        """The best selection within a predicted latency; None where there is none."""
        solution = solve(self.problem(budget_ms), seed=self.seed)
        return self.selection_of(solution) if solution.found else None

    def diverse(self, budget_ms: float, count: int, around_ms: float | None = None) -> list[Selection]:
        """Up to `count` selections near the optimum that differ in at least a tenth of the layers, best first."""
        problem, distance = self.problem(budget_ms, around_ms), min_distance(len(self.layers))
        return [self.selection_of(s) for s in solve_diverse(problem, count=count, minimum_distance=distance) if s.found]

    def fastest(self) -> Selection:
        """The selection of least predicted latency."""
        solution = fastest(self.problem(self.teacher_ms), "latency_ms")
        if not solution.found:
            raise LanaError("The solver found no selection at all although every layer has its teacher's operation.")
        return self.selection_of(solution)

    def smallest_bytes(self) -> float:
        """All layers of the smallest selection in a file."""
        solution = fastest(dataclasses.replace(self, most_bytes=math.inf).problem(self.teacher_ms), "bytes")
        return self.file_bytes(self.selection_of(solution))

    def choice(self, budget_ms: float) -> Selection | None:
        """The selection of least loss within a predicted latency: the program's, or a better one that was measured."""
        solved = self.solve(budget_ms)
        measured = [s for s, _ in self.losses if self.allows(s) and self.predicted_ms(s) <= budget_ms]
        known = [*([solved] if solved else []), *measured]
        return min(known, key=lambda selection: self.known_loss(selection, budget_ms), default=None)


def min_distance(layers: int) -> int:
    """In how many layers two proposed selections differ at least."""
    return max(1, round(MIN_DISTANCE_RATIO * layers))
