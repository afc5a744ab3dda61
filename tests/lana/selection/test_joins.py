"""Int8 neighbours: the program counts a border as the prediction does, and finds what exhaustive search finds."""

import itertools

import pytest

from lana.models.selection import Selection
from lana.selection.joins import savings
from tests.lana.selection.int8_pool import BORDERS, CONVERSION_MS, make_int8_model


@pytest.fixture(scope="module")
def model():
    return make_int8_model()


def every(model):
    choices = [[one.operation for one in model.candidates if one.layer.name == layer] for layer in model.layers]
    return [Selection(zip(model.layers, chosen, strict=True)) for chosen in itertools.product(*choices)]


def test_a_run_of_int8_layers_converts_at_its_ends_only(model):
    run = Selection({f"block{i}": "half@int8" for i in range(3)})
    apart = Selection({"block0": "half@int8", "block2": "half@int8", "block1": "half"})
    assert [saving.name for saving in savings(model.parts(run), BORDERS)] == ["block0 to block1", "block1 to block2"]
    assert savings(model.parts(apart), BORDERS) == []


def test_a_skip_hands_an_int8_tensor_on(model):
    over = Selection({"block0": "half@int8", "block1": "identity@int8", "block2": "half@int8"})
    beside = Selection({"block0": "half@int8", "block1": "identity", "block2": "half@int8"})
    saved_ms = model.predicted_ms(beside) - model.predicted_ms(over)
    assert saved_ms == pytest.approx(CONVERSION_MS * model.prediction.coefficients["latency_ms"], rel=0.05)


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.7, 0.9])
def test_the_program_finds_the_best_of_all(model, share):
    budget_ms = share * model.predicted_ms(Selection())
    fitting = [one for one in every(model) if model.predicted_ms(one) <= budget_ms]
    best = min(model.expected_loss(one) for one in fitting)
    found = model.solve(budget_ms)
    assert model.predicted_ms(found) <= budget_ms * (1 + 1e-9)
    assert model.expected_loss(found) == pytest.approx(best)


def test_the_fastest_is_the_fastest_of_all(model):
    least_ms = min(model.predicted_ms(one) for one in every(model))
    assert model.predicted_ms(model.fastest()) == pytest.approx(least_ms)
