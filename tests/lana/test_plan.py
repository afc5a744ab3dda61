"""Fitting a run to the time there is: what is decided once, and what is forgotten."""

import json

import pytest

from lana.pipeline import prepare
from lana.plan import as_distilled, estimate, fit_to_time
from lana.recipe import Recipe
from lana.run import Run

RECIPE = Recipe(model="digits-resnet", data="digits", layers="blocks.*", max_span=1, pool="skip", budget="0.6x")


@pytest.fixture
def run(tmp_path):
    """A run, in which a setting is made for other options."""
    with Run.open(tmp_path / "run", RECIPE) as opened:
        yield lambda **options: prepare(opened, RECIPE.replace(**options), quiet=True)


def finish(setting, *stages):
    (setting.run.path / "stages.json").write_text(
        json.dumps({name: {"fingerprint": "", "seconds": 1} for name in stages})
    )


def minutes(setting, share):
    """As long as leaves this share of all training."""
    plan = estimate(setting, setting.recipe)
    fixed_s = plan.profile_s + plan.score_s + plan.select_s
    return (fixed_s + share * (plan.distill_s + plan.finetune_s)) / 60


def test_less_is_distilled_and_tuned_and_that_stays_so(run):
    time = minutes(run(), 0.5)
    fitted = fit_to_time(run(max_minutes=time))
    share = fitted.epochs / RECIPE.epochs
    assert 0.1 < share < 1  # about a half: two estimates differ by what the machine is busy with
    assert fitted.distill_epochs == pytest.approx(share * RECIPE.distill_epochs)
    assert fit_to_time(run(max_minutes=time)) == fitted


def test_a_plan_for_other_options_is_not_kept(run):
    short = fit_to_time(run(max_minutes=minutes(run(), 0.3)))
    longer = fit_to_time(run(max_minutes=1000))
    assert longer.epochs == RECIPE.epochs > short.epochs
    setting = run()
    assert fit_to_time(setting).epochs == RECIPE.epochs
    assert as_distilled(setting.run, setting.recipe).distill_epochs == RECIPE.distill_epochs


def test_a_finished_pool_stays_as_it_was_made_and_takes_no_more_time(run):
    setting = run(max_minutes=minutes(run(), 0.3))
    short = fit_to_time(setting)
    finish(setting, "teacher", "profile", "distill", "score")
    assert fit_to_time(run()).distill_epochs == short.distill_epochs
    assert fit_to_time(run()).epochs == RECIPE.epochs
    again = fit_to_time(run(max_minutes=minutes(run(), 0.2)))
    assert again.distill_epochs == short.distill_epochs
    assert again.epochs > short.epochs  # nothing else takes time any more
