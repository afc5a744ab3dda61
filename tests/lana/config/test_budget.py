import pytest
from hypothesis import given
from hypothesis import strategies as st

from lana.config.budget import parse_budget


@given(st.floats(min_value=1e-4, max_value=1e4), st.sampled_from(["x", "ms"]))
def test_budgets_round_trip(value, unit):
    assert parse_budget(f"{value:f}{unit}") == (pytest.approx(value, abs=1e-6), unit)
