"""How often the file of a delivered student is measured, on simulated processes."""

import math
from types import SimpleNamespace

import pytest

from lana.config.recipe import Recipe
from lana.delivery import deliver
from lana.delivery.summary import _reason
from lana.models.student_files import Selected
from profilers import Comparison


def batch(calm, ratio=0.4):
    return Comparison(
        ratios=(ratio,) * 5, reference_ms=(1.0,) * 5, calm=(calm,) * 5, waited=(0.0 if calm else 0.75,) * 5
    )


@pytest.mark.parametrize(
    ("batches", "taken", "disturbed", "within"),
    [
        ([batch(True)], 1, False, True),
        ([batch(False), batch(True)], 2, False, True),  # calm that comes late is waited for
        ([batch(False), batch(False)], 2, True, True),  # calm that never comes is not
        ([batch(False, 0.6), batch(True)], 2, False, True),
        ([batch(False), *[batch(True, 0.6)] * 5], 6, False, False),
        ([batch(True, 0.6)] * 6, 6, False, False),
    ],
)
def test_calm_is_waited_for(tmp_path, monkeypatch, batches, taken, disturbed, within):
    found = {"budget_ms": 1.0, "predicted_ms": 0.9, "selected_metric": 0.5, "seconds": 0.0}
    Selected(**found, selection={"a": "half"}).write(tmp_path)
    left = iter(batches)
    monkeypatch.setattr(deliver, "compared", lambda *_: [next(left)])
    baseline = SimpleNamespace(budget_ms=lambda recipe: 0.5, teacher_ms=1.0)
    measured = deliver._measured(SimpleNamespace(recipe=Recipe()), baseline, tmp_path, None)
    assert len(measured.ratios) == 5 * taken
    assert next(left, None) is None
    assert measured.disturbed == disturbed
    assert (measured.ratio_upper95 <= 0.5) == within
    reason = _reason(measured, measured.ratio_upper95, 0.5)
    if disturbed:
        assert (
            reason
            == "other work disturbed the measurement (0 of 10 processes were calm, they waited 75% of their time)"
        )
    else:
        assert (reason is None) == within
    assert math.isfinite(measured.ratio_upper95)
