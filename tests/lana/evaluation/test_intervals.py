"""The interval of a difference: a bootstrap over images, paired."""

import math

import numpy as np
import pytest

from lana.evaluation.intervals import paired_interval
from lana.evaluation.task import Classification


class Correlation(Classification):
    """The correlation of the numbers of a pair, over the whole set."""

    def figure(self, records):
        return np.corrcoef(np.array(records).T)[0, 1]


def test_of_a_mean_it_is_the_normal_one_of_the_paired_differences():
    random = np.random.default_rng(0)
    theirs = random.normal(size=2000)
    ours = theirs + random.normal(0.1, 0.5, size=2000)
    low, high = paired_interval(Classification(), ours, theirs)
    difference = ours - theirs
    spread = 1.96 * difference.std() / math.sqrt(2000)
    assert low == pytest.approx(difference.mean() - spread, abs=0.1 * spread)
    assert high == pytest.approx(difference.mean() + spread, abs=0.1 * spread)


def test_examples_without_a_figure_do_not_count():
    ours, theirs = [1.0, math.nan, 1.0], [0.0, math.nan, 0.0]
    assert paired_interval(Classification(), ours, theirs) == (1.0, 1.0)


def test_of_a_whole_set_the_figure_is_computed_anew_for_each_sample():
    random = np.random.default_rng(0)
    x = random.normal(size=400)
    near, far = (np.stack([x, x + random.normal(0, s, 400)], 1).tolist() for s in (0.5, 2.0))
    low, high = paired_interval(Correlation(), far, near)
    # Fisher: the errors of both correlations, (1 - r²) / √n, as of independent ones.
    r, s = (Correlation().figure(records) for records in (far, near))
    spread = 1.96 * math.hypot(1 - r**2, 1 - s**2) / math.sqrt(400)
    assert low == pytest.approx(r - s - spread, abs=0.3 * spread)
    assert high == pytest.approx(r - s + spread, abs=0.3 * spread)
    assert paired_interval(Correlation(), near, near) == (0.0, 0.0)


def test_other_images_cannot_be_paired():
    with pytest.raises(ValueError, match="2 and 1 records"):
        paired_interval(Classification(), [1.0, 0.0], [1.0])
