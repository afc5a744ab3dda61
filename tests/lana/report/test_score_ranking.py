import numpy as np
import pytest

from lana.errors import UserError
from lana.report.score_ranking import Student, judge, tau


def band(expected, measured, replaced=None, chosen=0, plain=None):
    return [
        Student(
            budget="0.5x",
            expected=float(e),
            plain=float(e if plain is None else plain[index]),
            measured=float(m),
            replaced=int(r),
            predicted_ms=1.0,
            chosen=index == chosen,
            selection={},
        )
        for index, (e, m, r) in enumerate(
            zip(expected, measured, replaced if replaced is not None else [5] * len(measured), strict=True)
        )
    ]


def test_what_gives_no_finite_outputs_has_no_rank():
    found = judge(band(np.arange(21), [*range(20), float("nan")]))
    assert found.students == 20
    assert found.tau["corrected"] == 1.0


def test_a_band_of_students_without_finite_outputs_is_refused():
    with pytest.raises(UserError, match=r"Only 3 of the students at 0\.5x give finite outputs"):
        judge(band(np.arange(5), [1.0, 2.0, 3.0, float("nan"), float("inf")]))


def test_a_perfect_ranking():
    measured = np.arange(20) ** 2
    found = judge(band(np.arange(20), measured))
    assert found.tau["corrected"] == 1.0
    assert found.regret == 0.0
    assert found.tau["latency"] == 0.0  # all of one latency: nothing to rank by
    assert found.above["latency"][0] > 0.5


def test_a_ranking_that_knows_nothing():
    random = np.random.default_rng(0)
    found = judge(band(random.random(60), random.random(60)))
    assert found.tau_interval[0] < 0 < found.tau_interval[1]


def test_the_regret_is_a_share_of_the_spread():
    found = judge(band(np.arange(5), [2.0, 1.0, 3.0, 4.0, 5.0]))
    assert found.regret == pytest.approx(0.25)  # (2 − 1) / (5 − 1)


def test_a_baseline_that_ranks_as_well_is_not_beaten():
    replaced = np.arange(30)
    found = judge(band(np.arange(30), np.arange(30), replaced))
    assert found.tau["replaced"] == 1.0
    assert found.above["replaced"] == (0.0, 0.0)


def test_ties_count_for_nothing():
    assert tau(np.ones(5), np.arange(5)) == 0.0


def test_a_correction_that_ranks_better_is_above_the_plain_sum():
    random, measured = np.random.default_rng(0), np.arange(40)
    found = judge(band(measured, measured, plain=random.random(40)))
    assert found.above["plain"][0] > 0.5
