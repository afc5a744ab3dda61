import dataclasses
from dataclasses import dataclass

import pytest

from lana.config.fields import Options, check_options, option, options_of
from lana.config.recipe import GROUPS, Recipe
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
