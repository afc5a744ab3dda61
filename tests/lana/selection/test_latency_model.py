import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lana.selection.latency_model import COLUMNS, MeasuredNetwork, Prediction, fit, held_out_error, total


def part(latency_ms, **more):
    others = dict.fromkeys(COLUMNS, 0.0)
    return {**others, "latency_ms": latency_ms, "operations": 1, **more}


def measured_networks(count, *, scale, per_operation, intercept, noise=0.0, per_mac=0.0, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        columns = {"latency_ms": rng.uniform(1, 10), "cold_ms": rng.uniform(0, 2), "operations": rng.uniform(20, 100)}
        columns |= {"macs": rng.uniform(1e8, 4e8)}
        columns |= {name: rng.uniform(1e5, 1e6) for name in ("border", "activations")}
        exact = intercept + scale * columns["latency_ms"] + 0.2 * columns["cold_ms"]
        exact += per_operation * columns["operations"] + per_mac * columns["macs"]
        made.append(MeasuredNetwork(columns=columns, measured_ms=exact * (1 + noise * rng.normal())))
    return made


def test_the_teacher_alone_gives_the_plain_sum_and_the_rest():
    prediction = fit([MeasuredNetwork(columns=part(4.0, operations=50), measured_ms=5.0)])
    assert prediction.coefficients["latency_ms"] == pytest.approx(1.0, abs=1e-3)
    assert prediction.intercept_ms == pytest.approx(1.0, abs=1e-2)


def test_parts_that_take_less_together_are_scaled():
    teacher = measured_networks(1, scale=0.5, per_operation=0.0, intercept=0.0)[0]
    prediction = fit([teacher])
    assert prediction.intercept_ms == 0
    assert prediction.network_ms([teacher.columns]) == pytest.approx(teacher.measured_ms, rel=0.02)
    small = {name: value / 20 for name, value in teacher.columns.items()}
    assert prediction.network_ms([small]) == pytest.approx(teacher.measured_ms / 20, rel=0.02)


def test_a_linear_device_is_recovered():
    prediction = fit(measured_networks(30, scale=0.87, per_operation=0.002, intercept=0.5))
    assert prediction.coefficients["latency_ms"] == pytest.approx(0.87, abs=0.01)
    assert prediction.coefficients["cold_ms"] == pytest.approx(0.2, abs=0.03)
    assert prediction.coefficients["operations"] == pytest.approx(0.002, abs=0.001)


def test_a_prediction_is_the_sum_of_its_parts():
    prediction = fit(measured_networks(10, scale=0.9, per_operation=0.001, intercept=0.3))
    parts = [
        part(1.0, cold_ms=0.3, macs=2e7, border=1e4),
        part(0.5),
    ]
    summed = prediction.intercept_ms + sum(
        weight * total(parts)[name] for name, weight in prediction.coefficients.items()
    )
    assert prediction.network_ms(parts) == pytest.approx(prediction.bent_ms(summed))


def bent_networks(count, bend):
    made = measured_networks(count, scale=1.0, per_operation=0.0, intercept=0.0)
    return [dataclasses.replace(whole, measured_ms=bend(whole.measured_ms / 10) * 10) for whole in made]


def test_a_curve_foresees_networks_slower_than_their_sum(monkeypatch):
    sums = np.random.default_rng(0).permutation(np.linspace(1, 10, 60))
    made = [MeasuredNetwork(columns=part(ms), measured_ms=ms * (1.2 - 0.02 * ms)) for ms in sums]

    def error():
        prediction = fit(made[::2])
        return np.mean([abs(prediction.network_ms([one.columns]) / one.measured_ms - 1) for one in made[1::2]])

    bent = error()
    monkeypatch.setattr("lana.selection.latency_model.BEND_DEVIATIONS", (1e-9, 1e-9, 1e-9))
    assert bent < 0.7 * error()


@given(
    budget_ms=st.floats(0.01, 30),
    bend=st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)),
    intercept_ms=st.floats(0, 2),
)
def test_a_limit_on_the_sum_is_the_budget_on_the_whole(budget_ms, bend, intercept_ms):
    prediction = Prediction(intercept_ms=intercept_ms, coefficients={}, bend=bend, top_ms=10.0)
    limit_ms = prediction.limit_ms(budget_ms)
    assert prediction.bent_ms(intercept_ms + limit_ms) == pytest.approx(budget_ms)
    assert prediction.bent_ms(intercept_ms + limit_ms + 0.01 * budget_ms) > budget_ms


def test_a_curve_that_would_fall_is_not_used():
    made = bent_networks(40, lambda share: 0.5 - 0.4 * share)
    prediction = fit(made)
    assert prediction.bent_ms(9.0) > prediction.bent_ms(5.0) > prediction.bent_ms(1.0)


def test_what_arithmetic_costs_beyond_its_milliseconds_is_found():
    prediction = fit(measured_networks(30, scale=1.0, per_operation=0.001, intercept=0.3, per_mac=1e-9))
    assert prediction.coefficients["macs"] == pytest.approx(1e-9, rel=0.3)
    assert prediction.coefficients["border"] == pytest.approx(0.0, abs=1e-7)  # at most 0.1 ms of 10


def test_no_part_is_ever_predicted_below_zero():
    prediction = fit(measured_networks(30, scale=0.9, per_operation=-0.02, intercept=3.0))
    assert prediction.part_ms(part(0.0, operations=5)) == 0.0


def test_the_held_out_error_is_that_of_the_noise():
    error = held_out_error(measured_networks(60, scale=0.9, per_operation=0.001, intercept=0.3, noise=0.02))
    assert error is not None
    assert 0.01 < error.mean_absolute < 0.03  # the mean of |N(0, 0.02)| is 0.016
    assert error.within_10_percent == 1.0
    assert held_out_error(measured_networks(3, scale=1, per_operation=0, intercept=0)) is None


def test_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="at least one measured network"):
        fit([])
