import math

import pytest

from lana.selection.stage import preferred


@pytest.mark.parametrize(
    ("distances", "latencies", "best"),
    [
        ([0.2], [0.3], 0),
        ([0.20, 0.21, 0.30], [0.27, 0.29, 0.30], 1),  # the third is slower, but too far away
        ([0.21, 0.20], [0.27, 0.29], 1),
        ([0.20, 0.23], [0.27, 0.29], 0),
        ([math.nan, 0.2, math.inf], [0.3, 0.2, 0.3], 1),
        ([math.nan, math.inf], [0.2, 0.3], 0),
        ([0.0, 0.0], [0.9, 0.8], 0),
        ([0.2, -1e-9], [0.3, 0.2], 1),  # a rounded nothing
    ],
)
def test_the_slowest_of_those_about_as_near_as_the_nearest(distances, latencies, best):
    assert preferred(distances, latencies) == best
