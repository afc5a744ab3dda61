import math
import statistics

import pytest

from lana.selection.confidence import t_quantile_95, upper_bound_95


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 6.314), (4, 2.132), (9, 1.833), (30, 1.697), (10**6, 1.645)])
def test_quantiles_are_those_of_tables(degrees, quantile):
    assert t_quantile_95(degrees) == pytest.approx(quantile, abs=5e-4)


def test_the_bound_is_never_below_the_median():
    ratios = (0.5, 0.51, 0.49)
    assert upper_bound_95(ratios) == pytest.approx(0.5 + 2.920 * 0.01 / math.sqrt(3), abs=1e-5)
    skewed = (0.1, 0.5, 0.5, 0.5, 0.5)
    assert upper_bound_95(skewed) >= statistics.median(skewed)
    assert upper_bound_95((0.5,)) == math.inf
