import errno
import os
from pathlib import Path

import pytest
import torch

from lana.common.files import explain_disk, read_json, save_torch, write_atomically, write_json, write_text
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
