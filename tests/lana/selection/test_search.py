"""The closed loop on a simulated device."""

import dataclasses
import itertools

import numpy as np
import pytest
from simulated_device import (
    ALL_SKIPPED,
    LAYERS,
    OPERATIONS,
    Device,
    change_model,
    make_model,
    make_search,
    plain_loss,
    true_loss,
)

from lana.errors import BudgetUnreachable
from lana.models.selection import Selection
from lana.runs.baseline import PROCESSES
from lana.selection.acceptance import MIN_BUDGET_MARGIN
from lana.selection.measurement_log import MeasurementLog
from lana.selection.sampling import spread
from lana.selection.search import fastest_within

SCORES = make_model(1.0).scores


def best_by_hand(search, budget_ms):
    """The least loss of all selections that the simulated device runs within the budget."""
    best = float("inf")
    for names in itertools.product(OPERATIONS, repeat=LAYERS):
        selection = Selection((f"block{i}", name) for i, name in enumerate(names))
        if search.measurer.ms(selection) <= budget_ms:
            best = min(best, search.model.expected_loss(selection))
    return best


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_is_accepted_is_within_the_budget_and_near_the_best(tmp_path, share):
    search = make_search(tmp_path)
    budget_ms = share * search.model.teacher_ms
    accepted = search.select(budget_ms, proposals=3)
    assert accepted
    for measured in accepted:
        assert search.measurer.ms(measured.selection) <= budget_ms
        assert len(measured.ratios) >= PROCESSES
    allowed = best_by_hand(search, budget_ms * (1 - 4 * MIN_BUDGET_MARGIN))
    assert search.model.expected_loss(accepted[0].selection) <= allowed + 1e-9


def test_the_correction_is_learned_from_measured_students(tmp_path):
    search = make_search(tmp_path)
    search.calibrate()
    error = search.model.prediction_error()
    assert error is not None
    assert error.mean_absolute < 0.02
    selection = Selection({"block0": "half", "block3": "identity"})
    assert search.model.predicted_ms(selection) == pytest.approx(search.measurer.ms(selection), rel=0.03)


@pytest.mark.parametrize("count", [0, 6])
def test_the_told_number_of_students_is_measured_first(tmp_path, count):
    search = make_search(tmp_path, calibrate=count)
    search.calibrate()
    assert search.measurer.calls == len(search.model.measured) == count


def test_the_loop_is_a_function_of_its_log(tmp_path):
    first = make_search(tmp_path, Device(seed=1))
    chosen = first.select(0.5 * first.model.teacher_ms, proposals=2)
    again = make_search(tmp_path, Device(seed=2))  # another noise: it is not asked for again
    assert [m.selection for m in again.select(0.5 * again.model.teacher_ms, proposals=2)] == [
        m.selection for m in chosen
    ]
    assert again.measurer.calls == 0


@pytest.mark.parametrize("seed", range(6))
def test_on_a_disturbed_machine_the_next_lower_ones_are_tried(tmp_path, seed):
    """Bounds are wide there: what is near the budget is not accepted, and the fastest of all is no answer either."""
    search = make_search(tmp_path, Device(disturbed=0.3, seed=seed))
    budget_ms = 0.5 * search.model.teacher_ms
    best = search.select(budget_ms, proposals=1)[0]
    assert best.ratio_upper95 * search.model.teacher_ms <= budget_ms
    assert 0.3 * budget_ms <= search.measurer.ms(best.selection) <= budget_ms


def test_lower_ones_are_tried_only_down_to_one_that_is_accepted(tmp_path):
    """Where all lose more than is expected, what is lower still promises less: down to the fastest, before."""
    scores = {pair: 1e-3 * loss for pair, loss in SCORES.items()}
    device = Device(disturbed=0.3, seed=1, loss_of=lambda selection: 0.05 + plain_loss(selection, scores))
    search = make_search(tmp_path, device, refine=1, scores=scores)
    best = search.select(0.7 * search.model.teacher_ms, proposals=2)[0]
    assert device.ms(best.selection) >= 0.8 * 0.7 * search.model.teacher_ms
    assert device.calls < 45  # 68 before


def test_a_budget_out_of_reach_gives_the_fastest_figure(tmp_path):
    search = make_search(tmp_path)
    fastest_ms = search.measurer.ms(ALL_SKIPPED)
    with pytest.raises(BudgetUnreachable, match="fastest reachable student") as refused:
        search.select(0.9 * fastest_ms, proposals=2)
    assert refused.value.fastest_ms == pytest.approx(fastest_ms, rel=0.05)
    assert search.select(refused.value.fastest_ms, proposals=1)  # the figure that was given is kept


def test_a_budget_far_out_of_reach_is_refused_by_one_measurement(tmp_path):
    search = make_search(tmp_path, calibrate=12)
    with pytest.raises(BudgetUnreachable) as refused:
        search.select(0.01 * search.model.teacher_ms, proposals=4)
    assert search.measurer.calls == 1
    assert refused.value.fastest_ms == pytest.approx(search.measurer.ms(ALL_SKIPPED), rel=0.05)


def test_a_pessimistic_sum_is_refitted_before_a_refusal(tmp_path):
    """All parts alone take a fifth more than what is asked for; the network itself is within."""
    search = make_search(tmp_path)
    slower = [dataclasses.replace(one, latency_ms=one.latency_ms + 0.2) for one in search.model.candidates]
    change_model(search, candidates=slower)
    budget_ms = 1.15 * search.measurer.ms(ALL_SKIPPED)
    assert search.model.solve(budget_ms) is None
    assert search.select(budget_ms, proposals=1)


def test_where_nothing_is_faster_than_the_teacher_it_is_said(tmp_path):
    search = make_search(tmp_path)
    change_model(search, candidates=[c for c in search.model.candidates if c.operation == "teacher"])
    with pytest.raises(BudgetUnreachable, match="teacher itself is the fastest"):
        search.select(0.5 * search.model.teacher_ms, proposals=2)


def test_what_is_reachable_is_told_under_the_pins(tmp_path):
    search = make_search(tmp_path, pins={f"block{i}": "teacher" for i in range(LAYERS - 1)})
    search.measure_latencies([ALL_SKIPPED], PROCESSES)
    with pytest.raises(BudgetUnreachable) as refused:
        search.select(0.3 * search.model.teacher_ms, proposals=1)
    reachable_ms = search.measurer.ms(Selection({f"block{LAYERS - 1}": "identity"}))
    assert refused.value.fastest_ms == pytest.approx(reachable_ms, rel=0.05)


@pytest.mark.parametrize("share", [0.95, 0.97, 0.99])
@pytest.mark.parametrize("factor", [0.9, 0.97])
def test_budgets_near_the_teachers_latency(tmp_path, share, factor):
    """Students that measure faster than their parts say let the loop aim above the teacher's own latency."""
    search = make_search(tmp_path, Device(factor=factor))
    best = search.select(share * search.model.teacher_ms, proposals=1)[0]
    assert best.selection
    assert factor * search.measurer.ms(best.selection) <= share * search.model.teacher_ms


@pytest.mark.parametrize("share", [0.4, 0.5])  # at 0.6 the plain sum chooses well too
def test_measured_losses_mend_what_the_sum_misses(tmp_path, share):
    losses, device = {}, Device(loss_of=true_loss)
    for name, search in (
        ("plain", make_search(tmp_path / "plain")),
        ("corrected", make_search(tmp_path / "corrected", device, refine=24)),
    ):
        best = search.select(share * search.model.teacher_ms, proposals=1)[0]
        losses[name] = true_loss(best.selection)
    assert 8 <= len(device.asked) <= 24
    assert losses["corrected"] < losses["plain"]


def test_a_loop_that_is_repeated_measures_no_loss_again(tmp_path):
    first, again = (make_search(tmp_path, Device(loss_of=true_loss), refine=12) for _ in range(2))
    chosen = first.select(0.5 * first.model.teacher_ms, proposals=1)[0]
    assert len(first.measurer.asked) == len(set(first.measurer.asked))
    again.log = MeasurementLog.read(tmp_path)
    assert again.select(0.5 * again.model.teacher_ms, proposals=1)[0].selection == chosen.selection
    assert again.measurer.asked == []


def test_the_choice_is_a_measured_student_where_that_is_better(tmp_path):
    search = make_search(tmp_path, Device(loss_of=true_loss), refine=12)
    budget_ms = 0.5 * search.model.teacher_ms
    search.calibrate()
    search.refine(budget_ms)
    model, choice = search.model, search.model.choice(budget_ms)
    measured = [loss for selection, loss in model.losses if model.predicted_ms(selection) <= budget_ms]
    assert model.predicted_ms(choice) <= budget_ms
    assert true_loss(choice) <= min(measured) + 1e-9


def test_students_of_lower_budgets_are_not_mistaken_for_better(tmp_path):
    """Around one latency it is known that students lose ten times what their scores say; far below it is not."""
    search = make_search(tmp_path, Device(loss_of=lambda selection: 10 * plain_loss(selection, SCORES)), refine=12)
    search.measure_latencies(spread(search.model, [0.0, 0.05]), 2 * PROCESSES)
    budget_ms = 0.6 * search.model.teacher_ms
    best = search.select(budget_ms, proposals=2)[0]
    assert best.ratio * search.model.teacher_ms >= 0.85 * budget_ms
    assert best.selection in search.model.measured_losses


def test_expected_losses_hold_far_from_the_measured_latency(tmp_path):
    """Students lose four times what their scores say, the more the further from the teacher: measured around 0.5x."""
    device = Device(loss_of=lambda selection: 4 * plain_loss(selection, SCORES) ** 1.5)
    search = make_search(tmp_path, device, refine=12)
    search.calibrate()
    search.refine(0.5 * search.model.teacher_ms)
    model = search.model
    far = [s for s in spread(model, [0.0, 0.1, 0.2, 0.7, 0.8, 0.9]) if s and s not in model.measured_losses]
    shares = [model.predicted_ms(selection) / model.teacher_ms for selection in far]
    assert min(shares) < 0.25
    assert max(shares) > 0.85
    off = np.log(np.array([model.expected_loss(selection) for selection in far]) / device.losses(far))
    assert np.abs(off).max() < np.log(2.2)


def test_a_pin_stands_in_all_that_is_accepted(tmp_path):
    search = make_search(tmp_path)
    assert "block5" in search.select(0.6 * search.model.teacher_ms, proposals=1)[0].selection
    change_model(search, pins={"block5": "teacher"})
    accepted = search.select(0.6 * search.model.teacher_ms, proposals=3, name="pinned")
    assert accepted
    assert all("block5" not in measured.selection for measured in accepted)


def test_the_fastest_within_a_loss_keeps_it_when_measured(tmp_path):
    search = make_search(tmp_path, Device(loss_of=true_loss), refine=12)
    chosen = {loss: fastest_within(search, loss) for loss in (0.5, 2.0)}
    fastest_ms, faster_ms = (search.model.predicted_ms(chosen[loss]) for loss in (2.0, 0.5))
    assert fastest_ms < faster_ms < search.model.teacher_ms
    assert all(true_loss(selection) <= loss for loss, selection in chosen.items())
