"""Operations are exported with the same operators, and computed keys find the rows of shipped tables."""

from pathlib import Path

import make
import pytest
import today
from places import EXPORTED

GOLDEN = Path(__file__).parent
OPERATORS = make.read(GOLDEN / "onnx_operators.json")
KEYS = make.read(GOLDEN / "structure_keys.json")
PLACES = {(model, layer, operation): key for rows in KEYS.values() for key, model, layer, operation in rows}


def test_every_family_is_exported():
    assert {today.family_of(operation) for operation in OPERATORS} == set(today.FAMILY_NAMES)


@pytest.mark.parametrize("operation", OPERATORS)
def test_an_exported_operation_holds_the_same_operators(operation, tmp_path):
    assert today.onnx_operators(operation, EXPORTED[operation], tmp_path) == OPERATORS[operation]


@pytest.mark.parametrize("table", KEYS)
def test_the_table_holds_the_keys(table):
    rows = {row["key"]: row for row in today.table_rows(today.ROOT / "hardware_tables" / table)}
    assert len(KEYS[table]) == make.ROWS
    for key, _, layer, operation in KEYS[table]:
        assert (rows[key]["layer"], rows[key]["operation"]) == (layer, operation)


@pytest.mark.parametrize("model", sorted({model for model, _, _ in PLACES}))
def test_keys_computed_from_the_modules(model):
    places = {place: key for place, key in PLACES.items() if place[0] == model}
    assert {place: today.key_of(*place) for place in places} == places
