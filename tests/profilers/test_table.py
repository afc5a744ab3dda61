"""Tables: what is written is read, what was changed is refused, rows merge by rules."""

import codecs
import dataclasses
import json
import math
import multiprocessing
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers import InvalidTable, LatencyTable, MissingRow, ProfilerError, RuntimeSettings, TableMismatch
from profilers.calibration import read_reference, store_reference
from profilers.table_columns import COLUMNS
from profilers.table_file import Header, append, read, render, seal_row, write

HEADER = Header(
    runtime="onnxruntime-cpu",
    versions={"onnxruntime": "1.32.0"},
    settings=RuntimeSettings(),
    device="a processor, 2 logical processors",
    reference_s={"compute": 1e-3, "memory": 1e-3, "dispatch": 1e-4},
)


def row(key, latency_ms=1.0, **more):
    fields = dict.fromkeys((name for name in COLUMNS if name != "check"), "")
    fields.update(key=key, name=f"conv {key}", operation="cb_stack", layer="layer1.0", input_shape="64×28×28")
    if "error" not in more:
        fields.update(latency_ms=str(latency_ms), p90_ms=str(1.1 * latency_ms), cold_ms=str(2 * latency_ms))
        fields.update(interval="0.01", rounds="12", raw_ms=str(latency_ms), noisy="0", load="0.10")
    return {**fields, **more}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    append(path, HEADER, [row("aa", 1.0), row("bb", 2.0), row("cc", error="it cannot be built")])
    return path


def test_what_is_written_is_read(table):
    found = LatencyTable.read(table)
    assert len(found) == 3
    assert found.lookup("aa").latency_ms == 1.0
    assert found.lookup("bb").cold_ms == 4.0
    assert found.lookup("cc").error == "it cannot be built"
    assert math.isnan(found.lookup("cc").latency_ms)
    assert found.rows.loc["bb", "latency_ms"] == 2.0
    assert found.header.settings == RuntimeSettings()


def test_a_byte_order_mark_and_other_line_ends_change_nothing(table):
    plain = table.read_bytes()
    table.write_bytes(codecs.BOM_UTF8 + plain.replace(b"\n", b"\r\n"))
    assert len(LatencyTable.read(table)) == 3
    append(table, HEADER, [row("dd", 4.0)])
    assert table.read_bytes().startswith(plain[:100])
    assert len(LatencyTable.read(table)) == 4


def test_a_missing_row_names_the_nearest(table):
    found = LatencyTable.read(table)
    with pytest.raises(MissingRow, match=r"has no row zz for conv bb layer=layer1.0.*Nearest: conv"):
        found.lookup("zz", name="conv bb", labels={"layer": "layer1.0"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",2.0,", ",1.9,", 1), "was changed after it was measured"),
        (lambda text: text.replace('"onnxruntime-cpu"', '"openvino"'), "was changed after it was measured"),
        (lambda text: "".join(t for t in text.splitlines(True) if not t.startswith("bb,")), "not the 3 that were"),
        (lambda text: text[: len(text) // 2], "columns|cut short"),
        (lambda text: text[: text.rindex("# end")], "is cut short"),
        (lambda text: text.replace("schema 1", "schema 9"), "has another schema"),
        (lambda text: "latency,ms\n1,2\n", "is no latency table"),
        (lambda text: "", "is no latency table"),
    ],
)
def test_a_table_that_was_tampered_with_is_refused(table, change, message):
    changed = change(table.read_text())
    assert changed != table.read_text()
    table.write_text(changed)
    with pytest.raises(InvalidTable, match=message):
        LatencyTable.read(table)


def test_a_row_of_another_table_is_refused(table, tmp_path):
    other = tmp_path / "other.csv"
    append(other, dataclasses.replace(HEADER, device="another processor"), [row("dd")])
    stolen = next(line for line in other.read_text().splitlines(True) if line.startswith("dd,"))
    text = table.read_text()
    table.write_text(text.replace("# end", f"{stolen}# end"))
    with pytest.raises(InvalidTable, match="belongs to another table"):
        LatencyTable.read(table)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InvalidTable, match="cannot be read"):
        LatencyTable.read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidTable, match="is not text"):
        LatencyTable.read(tmp_path / "binary.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("schema 1", "schema 10", 1).replace("\nkey,", "\nkeys,", 1), "another schema"),
        (lambda text: text.replace("\nkey,name,", '\n"key","name",', 1), None),
    ],
)
def test_a_table_that_looks_otherwise_is_never_emptied(table, change, message):
    changed = change(table.read_text())
    table.write_text(changed)
    if message is None:
        assert len(append(table, HEADER, [])) == 3
    else:
        with pytest.raises(InvalidTable, match=message):
            append(table, HEADER, [row("new")])
        assert table.read_text() == changed


def test_a_row_takes_the_place_of_its_error(table):
    append(table, HEADER, [row("cc", 3.0), row("dd", 4.0)])
    read_again = LatencyTable.read(table)
    assert len(read_again) == 4
    assert read_again.lookup("cc").latency_ms == 3.0


@given(st.data())
def test_a_kill_loses_at_most_the_row_in_flight(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("kill") / "table.csv"
    rows = [row(f"k{i}", float(i + 1)) for i in range(5)]
    append(path, HEADER, rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    begun = len(re.findall(rb"\nk\d,", path.read_bytes()))
    kept = append(path, HEADER, [row("new", 9.0)])
    assert max(begun - 1, 0) <= len(kept) - 1 <= begun
    assert [r["key"] for r in kept][-1] == "new"
    assert LatencyTable.read(path).lookup("new").latency_ms == 9.0


def test_the_same_key_is_kept_once(table):
    append(table, HEADER, [row("aa", 5.0)])
    assert LatencyTable.read(table).lookup("aa").latency_ms == 1.0


def _append_many(path, name):
    for i in range(20):
        append(path, HEADER, [row(f"{name}{i}")])


def test_two_writers_do_not_corrupt_it(tmp_path):
    path = tmp_path / "table.csv"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(path, name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(LatencyTable.read(path)) == 40


def test_tables_of_other_settings_are_not_mixed(table, tmp_path):
    threads = dataclasses.replace(HEADER, settings=RuntimeSettings(threads=2))
    with pytest.raises(TableMismatch, match=r'settings: {"threads": 1.*"threads": 2'):
        append(table, threads, [row("dd")])
    other = tmp_path / "other.csv"
    append(other, dataclasses.replace(HEADER, versions={"onnxruntime": "1.20.0"}), [row("dd")])
    with pytest.raises(TableMismatch, match=r"1\.20\.0"):
        LatencyTable.read(table).merge(LatencyTable.read(other))


def merged(tmp_path, ours, theirs, **options):
    paths = [tmp_path / "ours.csv", tmp_path / "theirs.csv"]
    for path, rows in zip(paths, (ours, theirs), strict=True):
        append(path, HEADER, rows)
    return LatencyTable.read(paths[0]).merge(LatencyTable.read(paths[1]), **options)


def test_merging_takes_the_narrower_interval(tmp_path):
    found = merged(
        tmp_path,
        [row("aa", 1.0, interval="0.03"), row("bb", error="failed")],
        [row("aa", 1.1, interval="0.01"), row("bb", 3.0), row("cc", 4.0)],
    )
    assert {key: found.lookup(key).latency_ms for key in ("aa", "bb", "cc")} == {"aa": 1.1, "bb": 3.0, "cc": 4.0}


def test_rows_too_far_apart_are_a_conflict(tmp_path):
    with pytest.raises(TableMismatch, match="Choose the one to keep"):
        merged(tmp_path, [row("aa", 1.0)], [row("aa", 1.4)])


def test_which_to_keep_can_be_said(tmp_path):
    assert merged(tmp_path, [row("aa", 1.0)], [row("aa", 1.4)], prefer="theirs").lookup("aa").latency_ms == 1.4


def test_milliseconds_of_another_reference_are_rescaled(tmp_path):
    faster = dataclasses.replace(HEADER, reference_s={name: s / 2 for name, s in HEADER.reference_s.items()})
    append(tmp_path / "a.csv", HEADER, [row("aa", 1.0)])
    append(tmp_path / "b.csv", faster, [row("bb", 1.0)])
    found = LatencyTable.read(tmp_path / "a.csv").merge(LatencyTable.read(tmp_path / "b.csv"))
    assert found.lookup("bb").latency_ms == pytest.approx(2.0)


def test_a_merged_table_is_written_and_read(table, tmp_path):
    found = LatencyTable.read(table)
    found.write(tmp_path / "again.csv")
    assert LatencyTable.read(tmp_path / "again.csv").fields == found.fields


def test_a_write_that_fails_leaves_nothing_behind(table, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        LatencyTable.read(table).write(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "table.csv"]


def test_differences_are_ratios(table, tmp_path):
    append(tmp_path / "b.csv", HEADER, [row("aa", 1.5), row("zz", 1.0)])
    found = LatencyTable.read(table).diff(LatencyTable.read(tmp_path / "b.csv"))
    assert found["ratio"].to_dict() == {"aa": 1.5}


def test_differences_are_at_one_reference(table, tmp_path):
    slower = dataclasses.replace(HEADER, reference_s={name: 2 * s for name, s in HEADER.reference_s.items()})
    append(tmp_path / "b.csv", slower, [row("aa", 2.0)])
    other = dataclasses.replace(slower, device="another")
    append(tmp_path / "c.csv", other, [row("aa", 2.0)])
    ours = LatencyTable.read(table)
    assert ours.diff(LatencyTable.read(tmp_path / "b.csv"))["ratio"].to_dict() == {"aa": 1.0}
    assert ours.diff(LatencyTable.read(tmp_path / "c.csv"))["ratio"].to_dict() == {"aa": 2.0}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))
def test_any_name_survives(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("names") / "t.csv"
    write(path, HEADER, [seal_row(HEADER, row("aa", name=name))])
    assert read(path)[1][0]["name"] == name
    assert render(*read(path)) == path.read_bytes().decode()


def test_line_ends_of_another_system_are_read(table):
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n"))
    assert LatencyTable.read(table).lookup("bb").latency_ms == 2.0
    append(table, HEADER, [row("dd", 4.0)])
    assert LatencyTable.read(table).lookup("dd").latency_ms == 4.0


def test_a_table_without_its_end_keeps_every_whole_row(table):
    text = table.read_text()
    table.write_text(text[: text.rindex("# end")].replace(",1.0,", ",0.9,", 1))
    assert [kept["key"] for kept in append(table, HEADER, [])] == ["bb", "cc"]


def test_tables_that_another_version_wrote_are_no_reason_to_stop(table):
    text = table.read_text()
    for changed in (text.replace('"fp32"', '"fp8"'), text.replace("aa,", "a\ra,", 1)):
        table.write_text(changed, newline="")
        with pytest.raises(InvalidTable):
            LatencyTable.read(table)


@pytest.mark.parametrize(
    "change",
    [
        *({"latency_ms": value} for value in ("0", "-1", "nan", "inf", "", "fast", "1e400")),
        *({name: "-1"} for name in ("p90_ms", "cold_ms", "interval", "rounds", "raw_ms", "parameters", "macs", "load")),
        *({name: "nan"} for name in ("p90_ms", "cold_ms", "interval", "rounds", "parameters", "macs", "load")),
        *({"more": value} for value in ("{", "[1]", "3", '{"a": [1]}', "[" * 100_000)),
    ],
    ids=str,
)
def test_figures_that_cannot_be_are_refused_under_a_right_check(tmp_path, change):
    path = tmp_path / "table.csv"
    write(path, HEADER, [row("aa"), {**row("bb"), **change}])
    with pytest.raises(InvalidTable, match=r"Line \d+ of .* \(conv bb\) is invalid"):
        LatencyTable.read(path)


def test_one_round_bounds_nothing_and_is_a_row(tmp_path):
    write(tmp_path / "table.csv", HEADER, [row("aa", interval="inf", parameters="0")])
    assert math.isinf(LatencyTable.read(tmp_path / "table.csv").lookup("aa").interval)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -1.0, None, "1", True])
def test_a_calibration_reference_that_cannot_be_becomes_no_table(tmp_path, value):
    reference_s = {**HEADER.reference_s, "memory": value}
    with pytest.raises(ProfilerError, match="'memory' took"):
        dataclasses.replace(HEADER, reference_s=reference_s)
    path = tmp_path / "reference.json"
    with pytest.raises(ProfilerError, match="'memory' took"):
        store_reference(path, reference_s, {})
    assert not path.exists()
    path.write_text(json.dumps({"reference_s": reference_s}))
    with pytest.raises(ProfilerError, match="holds no calibration reference"):
        read_reference(path)


@pytest.mark.parametrize(("runtime", "mixed"), [("onnxruntime-cpu", True), ("openvino", False)])
def test_folded_files_share_a_table_where_the_runtime_folds_itself(tmp_path, runtime, mixed):
    plain, folded = (
        dataclasses.replace(HEADER, runtime=runtime, versions={"exporter": version})
        for version in ("pytorch 2.13.0", "pytorch 2.13.0 folded")
    )
    append(tmp_path / "table.csv", plain, [row("aa")])
    if mixed:
        assert len(append(tmp_path / "table.csv", folded, [row("bb")])) == 2
        assert read(tmp_path / "table.csv")[0] == plain
    else:
        with pytest.raises(TableMismatch, match="folded"):
            append(tmp_path / "table.csv", folded, [row("bb")])
