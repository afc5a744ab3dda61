"""The candidates of a device that is not here."""

from types import SimpleNamespace

from lana.delivery.remote_devices import candidates_on
from tests.lana.selection.int8_pool import make_int8_model


def test_int8_is_not_chosen_for_a_device_whose_files_are_fp32():
    """Even where its table has the row: the student that is sent there would be another than was chosen."""
    candidates = make_int8_model().candidates
    row = SimpleNamespace(latency_ms=1.0, cold_ms=1.0, interval=0.01, error="")
    made = candidates_on(SimpleNamespace(lookup=lambda key, **_: row), candidates)
    assert {one.precision for one in candidates} == {"fp32", "int8"}
    assert {one.precision for one in made if one.kept} == {"fp32"}
