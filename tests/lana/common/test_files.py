import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from lana.common.files import (
    explain_disk,
    missing_rows,
    read_json,
    read_record,
    read_records,
    save_torch,
    write_atomically,
    write_json,
    write_records,
    write_text,
)
from lana.errors import UserError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "file.txt", "old")

    def fail(beside):
        beside.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_full_disk_is_said_in_words(tmp_path):
    def full(beside):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(UserError, match=r"disk that holds .* is full.*finished stages are kept"),
        explain_disk(tmp_path),
    ):
        write_atomically(tmp_path / "file", full)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_a_device_that_is_really_full(tmp_path):
    with pytest.raises(UserError, match="is full"), explain_disk(tmp_path):
        Path("/dev/full").write_text("x" * 100_000)


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": 1})
    assert (tmp_path / "a" / "b.json").read_text() == '{\n "x": 1\n}\n'


def test_json_is_read_back_or_replaced_by_its_default(tmp_path):
    path = write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(path) == read_json(path, {}) == {"x": 1}
    assert read_json(tmp_path / "none.json", {}) == {}
    assert read_json(tmp_path / "none.json", None) is None


@pytest.mark.parametrize("content", [b'{"x": 1', b"", b"\xff\xfe"])
def test_damaged_json_is_named_with_its_remedy(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    for default in ({}, {"default": None}):
        with pytest.raises(UserError, match=r"a\.json is damaged: .*Delete it and repeat the command"):
            read_json(tmp_path / "a.json", **default)


def test_a_byte_order_mark_is_no_part_of_json(tmp_path):
    (tmp_path / "file.json").write_text("[1]", encoding="utf-8-sig")
    assert read_json(tmp_path / "file.json") == [1]


def test_missing_json_is_named_with_its_remedy(tmp_path):
    with pytest.raises(UserError, match=r"a\.json is missing\. Repeat the command"):
        read_json(tmp_path / "a.json")


def test_tensors_are_read_back(tmp_path):
    path = save_torch(tmp_path / "a" / "b.pt", {"x": torch.ones(2)})
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.ones(2))
    assert os.listdir(path.parent) == ["b.pt"]


@dataclass
class Record:
    name: str
    count: int
    figure: float | None = None
    parts: Mapping[str, str] = field(default_factory=dict)


def test_a_record_is_read_back(tmp_path):
    path = write_json(tmp_path / "a.json", {"name": "x", "count": 3, "figure": 0.5, "parts": {"a": "half"}})
    assert read_record(path, Record, positive=("figure",)) == Record("x", 3, 0.5, {"a": "half"})


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("[]", "it holds list"),
        ("3", "it holds int"),
        ('{"name": "x"}', "count"),
        ('{"name": "x", "count": true}', "count is 'True', expected a number"),
        ('{"name": 1, "count": 1}', "name is '1'"),
        ('{"name": "x", "count": 1, "figure": NaN}', "figure is nan, expected a number above 0"),
        ('{"name": "x", "count": 1, "parts": {"a": 1}}', "parts is"),
        ('{"name": "x", "count": 1, "other": 1}', "other"),
    ],
)
def test_a_record_of_another_shape_names_its_file(tmp_path, content, wrong):
    path = write_text(tmp_path / "a.json", content)
    with pytest.raises(UserError, match=rf"a\.json is damaged \(.*{wrong}.*Delete it and repeat the command"):
        read_record(path, Record, positive=("figure",))


def test_records_are_read_back_and_a_lost_row_is_noticed(tmp_path):
    path = tmp_path / "a.csv"
    rows = [{"name": name, "count": count, "figure": float("nan")} for count, name in enumerate(("0", "null", ""))]
    write_records(path, rows)
    assert missing_rows(path) == ""
    assert [(row["name"], row["count"]) for row in read_records(path, Record, missing=("figure",))] == [
        ("0", 0),
        ("null", 1),
        ("", 2),
    ]
    header, _, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *others]))
    assert missing_rows(path) == "1 of its 3 rows (no. 1)"
    path.write_text(header)
    assert missing_rows(path) == "all rows"
