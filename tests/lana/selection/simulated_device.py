"""A simulated device: a formula gives the latency of each student, so that the truth is known."""

import dataclasses
from pathlib import Path

import numpy as np

from lana.models.selection import Selection
from lana.networks.layers import Layer
from lana.pool.candidates import Candidate
from lana.selection.measurement_log import MeasurementLog
from lana.selection.program import SelectionModel
from lana.selection.search import BudgetSearch
from profilers import Comparison

LAYERS = 6
OPERATIONS = {"teacher": (1.0, 0.0), "half": (0.5, 0.1), "third": (0.33, 0.25), "identity": (0.0, 1.0)}
INTERCEPT_MS, SCALE = 0.6, 0.88  # of the simulated device: a sum of isolated parts is 12% too high
ALL_SKIPPED = Selection({f"block{i}": "identity" for i in range(LAYERS)})


def layer(index):
    return Layer(
        name=f"block{index}",
        input_shape=(4, 8, 8),
        output_shape=(4, 8, 8),
        layout="nchw",
        macs=1,
        members=(f"block{index}",),
    )


def make_model(teacher_ms):
    candidates, scores = [], {}
    for index in range(LAYERS):
        for name, (latency_ms, loss) in OPERATIONS.items():
            candidate = Candidate(
                layer=layer(index),
                operation=name,
                family=name,
                key=name,
                parameters=0,
                macs=1,
                operators=2 if latency_ms else 0,
                activations=1 if latency_ms else 0,
                latency_ms=latency_ms * (1 + 0.3 * index),
            )
            candidates.append(candidate)
            scores[candidate.pair] = loss * (1 + 0.17 * index)
    layers = [f"block{i}" for i in range(LAYERS)]
    return SelectionModel(layers=layers, candidates=candidates, scores=scores, teacher_ms=teacher_ms)


class Device:
    """Measures by the formula, with noise; `disturbed` of all processes are much slower. `loss_of` is a student's."""

    def __init__(self, *, noise=0.004, disturbed=0.0, seed=0, factor=1.0, loss_of=None):
        self.noise, self.disturbed, self.factor, self.loss_of = noise, disturbed, factor, loss_of
        self.rng = np.random.default_rng(seed)
        self.calls, self.asked = 0, []

    def ms(self, selection=Selection()):  # noqa: B008 (it cannot be changed)
        parts = [OPERATIONS[selection.get(f"block{i}", "teacher")][0] * (1 + 0.3 * i) for i in range(LAYERS)]
        return INTERCEPT_MS + SCALE * sum(parts)

    def latencies(self, selections, processes):
        self.calls += len(selections)
        return [
            Comparison(
                ratios=tuple(
                    self.factor
                    * (
                        self.ms(s) / self.ms() * (1 + self.noise * self.rng.normal(size=processes))
                        + 0.3 * (self.rng.random(processes) < self.disturbed)
                    )
                ),
                reference_ms=(self.ms(),) * processes,
            )
            for s in selections
        ]

    def losses(self, selections):
        self.asked += selections
        return [self.loss_of(selection) for selection in selections]


def make_search(folder: Path, device: Device | None = None, *, refine=0, calibrate=16, **changes):
    """The search over the simulated pool, its log in a folder; `changes` are fields of the model."""
    device = device or Device()
    model = make_model(device.ms())
    return BudgetSearch(
        model=dataclasses.replace(model, correct_scores=bool(refine), **changes),
        measurer=device,
        log=MeasurementLog.read(folder),
        refinement_students=refine,
        calibration_students=calibrate,
    )


def change_model(search: BudgetSearch, **changes):
    search.model = dataclasses.replace(search.model, **changes)


def plain_loss(selection, scores):
    return sum(scores[pair] for pair in selection.items())


def true_loss(selection):
    """Scores that do not add up: a `third` behind a layer that is replaced too loses five times as much."""
    scores = make_model(1.0).scores
    neighboured = [
        scores[name, operation]
        for name, operation in selection.items()
        if operation == "third" and f"block{int(name[-1]) - 1}" in selection
    ]
    return plain_loss(selection, scores) + 4 * sum(neighboured)
