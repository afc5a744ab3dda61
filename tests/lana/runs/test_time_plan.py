"""Fitting a run to the time there is: what is decided once, and what is forgotten."""

import json

import pytest

from lana.config.recipe import Recipe
from lana.errors import UserError
from lana.runs.context import prepare
from lana.runs.run import Run
from lana.runs.time_plan import Plan, as_distilled, fit_to_time

RECIPE = Recipe(model="digits-resnet", data="digits", layers="blocks.*", max_span=1, pool="skip", budget="0.6x")


@pytest.fixture
def run(tmp_path):
    """A run, in which a context is made for other options."""
    with Run.open(tmp_path / "run", RECIPE) as opened:
        yield lambda **options: prepare(opened, RECIPE.replace(**options))


@pytest.fixture(autouse=True)
def _an_hour_of_which_half_is_training(monkeypatch):
    plan = Plan(
        layers=9, spans=0, operations=9, profile_s=900, distill_s=900, score_s=600, select_s=300, finetune_s=900
    )
    monkeypatch.setattr("lana.runs.time_plan.estimate", lambda context: plan)


def finish(context, *stages):
    """As if these were."""
    entry = {"fingerprint": "", "seconds": 1}
    (context.run.path / "stages.json").write_text(json.dumps(dict.fromkeys(stages, entry)))


def test_less_is_distilled_and_tuned_and_that_stays_so(run):
    fitted = fit_to_time(run(max_minutes=45))
    assert fitted.finetuning.epochs == pytest.approx(0.5 * RECIPE.finetuning.epochs)
    assert fitted.distilling.epochs == pytest.approx(0.5 * RECIPE.distilling.epochs)
    finish(run(), "teacher", "profile", "distill")
    assert fit_to_time(run(max_minutes=45)) == fitted


def test_a_plan_for_other_options_is_not_kept(run):
    assert (
        fit_to_time(run(max_minutes=40)).finetuning.epochs
        < fit_to_time(run(max_minutes=50)).finetuning.epochs
        < RECIPE.finetuning.epochs
    )
    context = run()
    assert fit_to_time(context).finetuning.epochs == RECIPE.finetuning.epochs
    assert as_distilled(context.run, context.recipe).distilling.epochs == RECIPE.distilling.epochs


def test_a_finished_pool_stays_as_it_was_made_and_takes_no_more_time(run):
    context = run(max_minutes=45)
    short = fit_to_time(context)
    finish(context, "teacher", "profile", "distill", "score")
    assert fit_to_time(run()).distilling.epochs == short.distilling.epochs
    assert fit_to_time(run()).finetuning.epochs == RECIPE.finetuning.epochs
    again = fit_to_time(run(max_minutes=14))  # five of them for selecting
    assert again.distilling.epochs == short.distilling.epochs
    assert again.finetuning.epochs == pytest.approx(0.6 * RECIPE.finetuning.epochs)


def test_too_little_time_is_told(run):
    with pytest.raises(UserError, match=r"alone take about 30 min .*Allow at least 33\.0 minutes"):
        fit_to_time(run(max_minutes=30))
