"""The tables that ship with the package are whole, and quiet enough to decide by."""

import pytest

from profilers import LatencyTable
from profilers.library import SHIPPED, known_rows, search_path

TABLES = sorted(SHIPPED.glob("*.csv"))


def test_there_are_some():
    assert {LatencyTable.read(path).header.runtime for path in TABLES} >= {"onnxruntime-cpu", "openvino"}
    assert SHIPPED in search_path()


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_shipped_table_is_whole_and_quiet(path):
    table = LatencyTable.read(path)
    rows = table.rows
    assert len(rows) >= 100
    assert (rows["error"] == "").mean() > 0.98
    assert rows["noisy"].mean() < 0.2
    assert (rows["latency_ms"].dropna() > 0).all()
    assert (rows["p90_ms"] >= 0.98 * rows["latency_ms"]).mean() > 0.98
    assert table.header.environment["system"]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_its_rows_are_found_for_the_same_device(path):
    table = LatencyTable.read(path)
    key = next(key for key, row in table.fields.items() if not row["error"])
    (found,) = known_rows([SHIPPED], table.header, [key])
    assert found["key"] == key
