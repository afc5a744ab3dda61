"""Baselines without the program over both: made from the pool, within the budget, never better than the program."""

import pytest

from lana.models.selection import Selection
from lana.selection.int8_alone import Int8Alone
from lana.selection.int8_baselines import fp32_only, int8_baselines, quantized, structure_then_int8
from tests.lana.selection.int8_pool import make_int8_model
from tests.lana.selection.simulated_device import make_model


@pytest.fixture(scope="module")
def model():
    return make_int8_model()


def test_all_of_the_teacher_in_int8(model):
    every = quantized(model, Selection())
    assert every == {f"block{i}": "teacher@int8" for i in range(4)}


def test_a_skip_hands_int8_on_in_a_quantized_student(model):
    made = quantized(model, Selection({"block1": "identity", "block2": "half"}))
    assert (made["block1"], made["block2"]) == ("identity@int8", "half@int8")


@pytest.mark.parametrize("share", [0.25, 0.4, 0.6])
def test_the_program_is_at_least_as_good_as_structure_then_int8(model, share):
    budget_ms = share * model.predicted_ms(Selection())
    afterwards = structure_then_int8(model, budget_ms)
    assert model.predicted_ms(afterwards) <= budget_ms
    assert model.expected_loss(model.solve(budget_ms)) <= model.expected_loss(afterwards) + 1e-9


def test_without_int8_candidates_fp32_is_what_was_before(model):
    plain = fp32_only(model)
    assert {candidate.precision for candidate in plain.candidates} == {"fp32"}
    assert int8_baselines(make_model(6.0), 3.0) == []


def test_int8_alone_beats_what_is_no_faster_and_no_better():
    alone = Int8Alone(ratio=0.4, metric=0.9)
    assert alone.beats(0.4, 0.9)
    assert not alone.beats(0.39, 0.9)
    assert not alone.beats(0.4, 0.91)
