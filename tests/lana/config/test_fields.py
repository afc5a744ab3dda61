import dataclasses
from dataclasses import dataclass

import pytest

from lana.config.budget import check_number
from lana.config.fields import Options, check_options, option, options_of
from lana.config.recipe import GROUPS, OPTIONS, Recipe
from lana.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Baking(Options):
    minutes: int = option(30, "How long.", name="baking_minutes", least=1, most=90)
    heat: str = option("upper", "From where.", choices=("upper", "lower"))
    oven: str = "the kitchen's"


def test_an_option_has_the_name_and_the_field_that_its_group_declares():
    assert [(one.name, one.field) for one in options_of(Baking)] == [("baking_minutes", "minutes"), ("heat", "heat")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"minutes": 0}, "--baking-minutes 0: expected at least 1"),
        ({"minutes": 91}, "--baking-minutes 91: expected at most 90"),
        ({"minutes": "long"}, "--baking-minutes 'long': expected a whole number"),
        ({"heat": "sideways"}, "--heat 'sideways': expected one of upper, lower"),
    ],
)
def test_a_group_refuses_what_it_does_not_take(given, expected):
    with pytest.raises(UserError, match=expected):
        Baking(**given)


def test_a_group_converts_values_to_the_declared_types():
    assert Baking(minutes="45") == Baking(minutes=45.0) == Baking(minutes=45)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("threads", 0, "--threads 0: expected at least 1"),
        ("lr", 0.0, "--lr 0.0: expected a number above 0"),
        ("warmup", 1, "--warmup 1.0: expected a number below 1"),
        ("distillation", 1.5, "--distillation 1.5: expected at most 1"),
        ("granularity", "huge", "expected one of block, fine"),
        ("distill_epochs", -1, "--distill-epochs -1.0: expected at least 0"),
        ("seed", -1, "--seed -1: expected at least 0"),
        ("lr", "inf", "--lr 'inf': expected a number"),
        ("lr", float("nan"), "--lr nan: expected a number"),
        ("lr", 1e6, "--lr 1000000.0: expected at most 1000"),
        ("mixup", float("inf"), "--mixup inf: expected a number"),
        ("weight_decay", "1e400", "--weight-decay '1e400': expected a number"),
        ("seed", 2**64, "--seed 18446744073709551616: expected at most"),
        ("seed", 10**400, "--seed 1000.*…0: expected a whole number"),
        pytest.param("seed", 10**5000, "--seed int, too long to print: expected a whole number", id="seed-5000-digits"),
        ("epochs", "9" * 400, "--epochs '999.*…': expected a number"),
        ("mean", (0.5, float("nan"), 0.5), r"--mean \(0.5, nan, 0.5\): expected numbers like"),
        ("std", (0.5, 0.0, 0.5), r"--std \(0.5, 0.0, 0.5\): expected at least 1e-06"),
        ("std", float("inf"), "--std inf: expected numbers like"),
        ("input_shape", (3, -32), r"--input-shape \(3, -32\): expected at least 1"),
        ("affinity", (-1,), r"--affinity \(-1,\): expected at least 0"),
        ("budget", "9" * 400 + "ms", "The budget '999.* is beyond"),
        ("budget", "infx", "neither a share"),
        ("budget", "nanms", "neither a share"),
        ("budget", "0x", "not above zero"),
        ("budget", "-1ms", "not above zero"),
        ("budget", "fast", "neither a share"),
    ],
)
def test_a_value_out_of_range_is_refused(field, value, expected):
    with pytest.raises(UserError, match=expected):
        Recipe(**{field: value})


def test_an_option_that_there_is_not_is_refused_and_a_near_one_offered():
    with pytest.raises(UserError, match=r"Baking has no option 'haet'\. Did you mean: heat"):
        check_options({"haet": "upper"}, ["heat"], "Baking")


def test_no_option_is_declared_twice():
    names = [one.name for kind in GROUPS.values() for one in options_of(kind)]
    assert len(names) == len(set(names))


def test_every_field_of_a_group_is_an_option_or_shares_one():
    shared = {
        (group, spec.name) for group, kind in GROUPS.items() for spec in dataclasses.fields(kind) if not spec.metadata
    }
    assert shared == {("finetuning", "seed")}


NUMBERS = [
    one.name
    for kind in GROUPS.values()
    for one in options_of(kind)
    if "int" in str(one.type) or "float" in str(one.type)
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 2**64, 10**400, "9" * 400])
def test_every_number_is_finite_and_bounded_on_both_ends(name, value):
    limits = OPTIONS[name].limits
    assert {"least", "above"} & limits.keys()
    assert {"most", "below"} & limits.keys()
    with pytest.raises(UserError, match="expected") as refused:
        Recipe(**{name: value})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_numbers_that_no_recipe_holds_are_checked_too(value):
    with pytest.raises(UserError, match=r"--budget-ms .*: expected a number above 0"):
        check_number("--budget-ms", value)
