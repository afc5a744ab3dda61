import copy
import inspect
import pickle

import pytest

from lana.common.suggestions import near
from lana.config.recipe import FINETUNING, OPTIONS, SELECTING, Recipe, fingerprint
from lana.errors import UserError

POOL = ("teacher", "profile", "distill", "score")
PLAIN = {"model": "digits-resnet", "data": "digits", "budget": "0.4x"}
CHANGED = {
    "model": "net.py:mine",
    "data": "folder:images",
    "budget": "3ms",
    "exclude": "head.*",
    "affinity": (0, 1),
    "runtime_precision": "bf16",
    "seed": 3,
    "refine": 0,
    "compile": True,
    "distill_epochs": 1,
    "training_precision": "bf16",
    "mean": (0.5,),
    "epochs": 3,
    "device": "cuda",
    "processes": 2,
    "max_minutes": 5,
}


def test_flat_options_are_sorted_into_groups():
    recipe = Recipe(**CHANGED)
    assert (recipe.teacher.model, recipe.profiling.affinity, recipe.scoring.images) == ("net.py:mine", (0, 1), 1000)
    assert (recipe.distilling.epochs, recipe.finetuning.epochs, recipe.selecting.refine) == (1.0, 3.0, 0)
    assert (recipe.compute.device, recipe.compute.processes, recipe.compute.max_minutes) == ("cuda", 2, 5.0)
    assert {name: recipe.options[name] for name in CHANGED} == CHANGED


def test_fine_tuning_draws_by_the_seed_of_the_run():
    for given in (3, "3"):
        assert Recipe(seed=given).finetuning.seed == Recipe(seed=given).seed == 3


def test_a_replaced_option_leaves_the_others():
    recipe = Recipe(**CHANGED)
    other = recipe.replace(distill_epochs=2, seed=4)
    assert {name for name in OPTIONS if other.options[name] != recipe.options[name]} == {"distill_epochs", "seed"}
    assert other.replace(distill_epochs=1, seed=3) == recipe


def test_a_recipe_is_a_value():
    recipe = Recipe(**CHANGED)
    assert recipe == copy.deepcopy(recipe) == pickle.loads(pickle.dumps(recipe))
    assert len({recipe, Recipe(**CHANGED), Recipe()}) == 2


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"A recipe has no option 'modle'\. Did you mean: model"):
        Recipe(modle="digits-resnet")


def test_editors_see_every_option():
    assert tuple(inspect.signature(Recipe).parameters) == tuple(OPTIONS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PLAIN, ("4adcd7b63635d26d", "316e4a217d764255", "f71dac2c9a2b1337", "c1be3d129041e531")),
        (CHANGED, ("8e40fd7e3842787c", "89e220a904c7a5e9", "1ba22b43968313ad", "6d359adb1a7a832e")),
    ],
)
def test_fingerprints_stay_so_that_a_run_resumes(options, expected):
    recipe = Recipe(**options)
    parts = [recipe.parts(*POOL[:count]) for count in (2, 3, 4)] + [recipe.parts("student")]
    assert tuple(map(fingerprint, parts)) == expected


def test_only_the_options_of_a_stage_decide_its_fingerprint():
    recipe = Recipe(**PLAIN)
    assert recipe.parts("teacher", "profile") == recipe.replace(budget="0.3x", lr=1.0).parts("teacher", "profile")
    assert recipe.parts("profile") != recipe.replace(threads=2).parts("profile")
    changes = {"device": "cuda", "processes": 2, "max_minutes": 5}
    assert recipe.parts(*POOL, "student") == recipe.replace(**changes).parts(*POOL, "student")


def test_what_selecting_and_fine_tuning_take_makes_another_student():
    assert {*SELECTING, *FINETUNING, "budget"} == {
        name for name, one in OPTIONS.items() if one.group.stage == "student"
    }


@pytest.mark.parametrize("home", ["~/net.pt", "/nets/net.pt"])
def test_what_is_not_relative_stays(home):
    assert Recipe(weights=home).seen_from("/elsewhere").teacher.weights == home


def test_near_names_are_offered():
    assert near("resnet81", ["resnet18", "vgg11"]) == " Did you mean: resnet18?"
    assert near("zzz", ["resnet18"]) == " Known: resnet18."
