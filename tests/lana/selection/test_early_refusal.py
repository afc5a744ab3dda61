"""A budget below the fastest reachable is refused from the table."""

import pytest

import lana
from lana.runs.run import Run


@pytest.mark.slow
@pytest.mark.serial
def test_nothing_is_distilled_for_a_budget_that_nothing_reaches(tmp_path):
    recipe = lana.Recipe(
        model="digits-resnet", data="digits", budget="0.3x", layers="blocks.1,blocks.2", pool="linear_k1"
    )
    with pytest.raises(lana.BudgetUnreachable, match="the fastest reachable student needs"):
        lana.compress(recipe, out=tmp_path / "run", quiet=True)
    stages = Run(tmp_path / "run").stages()
    assert "profile" in stages
    assert "distill" not in stages
    assert not (tmp_path / "run" / "pool" / "operations").exists()
