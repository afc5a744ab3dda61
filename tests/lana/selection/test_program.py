"""The model alone: it predicts and solves from given measurements."""

import dataclasses
import itertools

import pytest
from simulated_device import LAYERS, Device, make_model

from lana.errors import UserError
from lana.models.selection import Selection
from lana.runs.baseline import PROCESSES
from lana.selection.measurement_log import MeasuredLatency
from lana.selection.stage import USED_SHARE, within_size

MODEL = make_model(Device().ms())


def measured(selection, *ratios):
    return MeasuredLatency(selection=selection, ratios=ratios)


def test_tiny_students_count_only_where_a_budget_asked_for_them():
    tiny = Selection({f"block{i}": "identity" if i else "third" for i in range(LAYERS)})
    ratios = (0.02,) * PROCESSES
    calibrating = dataclasses.replace(MODEL, latencies=[measured(tiny, *ratios[1:])])
    for_a_budget = dataclasses.replace(MODEL, latencies=[measured(tiny, *ratios)])
    assert calibrating.prediction == MODEL.prediction
    assert for_a_budget.prediction != MODEL.prediction


def test_measurements_of_one_selection_are_pooled():
    half, third = Selection({"block0": "half"}), Selection({"block0": "third"})
    model = dataclasses.replace(MODEL, latencies=[measured(half, 0.9), measured(third, 0.8), measured(half, 0.7)])
    assert list(model.measured) == [half, third]
    assert model.measured[half].ratios == (0.9, 0.7)


def test_diverse_selections_differ_and_come_best_first():
    selections = MODEL.diverse(0.5 * MODEL.teacher_ms, 4)
    losses = [MODEL.expected_loss(selection) for selection in selections]
    assert len(set(selections)) == 4
    assert losses == sorted(losses)


def test_a_span_over_a_pinned_layer_is_not_allowed():
    members = ("block0", "block1")
    span = dataclasses.replace(MODEL.candidates[0].layer, name="block0+block1", members=members)
    merged = dataclasses.replace(MODEL.candidates[1], layer=span, operation="merged")
    scores, selection = {**MODEL.scores, merged.pair: 0.01}, Selection([merged.pair])
    for pin, allowed in ({"block0": "teacher"}, False), ({"block2": "teacher"}, True), ({span.name: "merged"}, True):
        model = dataclasses.replace(MODEL, candidates=[*MODEL.candidates, merged], scores=scores, pins=pin)
        assert model.allows(selection) == allowed
        assert model.covering(selection).keys() == {*members}


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({"block0": "quarter"}, "--pin block0=quarter: at block0 there are teacher, half, third, identity."),
        ({"block9": "half"}, "there is no layer 'block9' in the pool"),
    ],
)
def test_a_pin_that_is_no_candidate_is_refused(pins, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(MODEL, pins=pins)


def test_the_size_is_a_second_budget():
    """The best of all selections within both, found by trying each."""
    sized = [dataclasses.replace(one, parameters=1000 * one.latency_ms) for one in MODEL.candidates]
    plain = dataclasses.replace(MODEL, candidates=sized)
    largest_mb = 0.6 * plain.file_bytes(Selection()) / 1e6
    own = sum(4 * part.parameters for part in plain.parts(Selection()))
    model, budget_ms = within_size(plain, own, largest_mb), 0.9 * MODEL.teacher_ms
    names = sorted({one.operation for one in sized})
    every = (
        Selection({f"block{i}": name for i, name in enumerate(chosen) if name != "teacher"})
        for chosen in itertools.product(names, repeat=LAYERS)
    )
    fitting = [s for s in every if model.allows(s) and model.predicted_ms(s) <= budget_ms]
    best = min(map(model.expected_loss, fitting))
    found = model.solve(budget_ms)
    assert model.expected_loss(found) == pytest.approx(best)
    assert model.file_bytes(found) <= USED_SHARE * largest_mb * 1e6 < plain.file_bytes(plain.solve(budget_ms))
    with pytest.raises(UserError, match="the smallest student of this pool takes about"):
        within_size(plain, 2 * own, largest_mb)
