import dataclasses

import numpy as np
import pytest
from simulated_device import Device, make_model

from lana.runs.baseline import PROCESSES
from lana.selection.acceptance import MIN_BUDGET_MARGIN, accepted, budget_margin, within
from lana.selection.measurement_log import MeasuredLatency
from lana.selection.sampling import spread

MODEL = make_model(Device().ms())
SELECTIONS = spread(MODEL, np.linspace(0.0, 0.9, 6))


def measured(ratios):
    return [MeasuredLatency(selection=s, ratios=(r,) * PROCESSES) for s, r in zip(SELECTIONS, ratios, strict=True)]


def test_the_margin_grows_with_the_repeatability():
    ratios = np.linspace(0.3, 0.9, len(SELECTIONS))
    once = dataclasses.replace(MODEL, latencies=measured(ratios))
    assert budget_margin(once) == MIN_BUDGET_MARGIN
    twice = dataclasses.replace(MODEL, latencies=[*measured(ratios), *measured(1.03 * ratios)])
    assert budget_margin(twice) == pytest.approx(0.03, rel=1e-3)


def test_the_bound_decides_and_not_the_median():
    fast, unsure = SELECTIONS[:2]
    latencies = [
        MeasuredLatency(selection=fast, ratios=(0.4, 0.41, 0.4, 0.41, 0.4)),
        MeasuredLatency(selection=unsure, ratios=(0.45, 0.45, 0.45, 0.45, 0.9)),
    ]
    model, budget_ms = dataclasses.replace(MODEL, latencies=latencies), 0.5 * MODEL.teacher_ms
    assert {one.selection for one in within(model, budget_ms)} == {fast, unsure}
    assert [one.selection for one in accepted(model, budget_ms)] == [fast]


def test_with_few_processes_nothing_is_accepted():
    few = MeasuredLatency(selection=SELECTIONS[0], ratios=(0.4,) * (PROCESSES - 1))
    assert accepted(dataclasses.replace(MODEL, latencies=[few]), MODEL.teacher_ms) == []
