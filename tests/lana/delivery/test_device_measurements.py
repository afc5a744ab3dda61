"""Measurements of a device are taken into its log whole or not at all, and each file once."""

import json

import pytest

from lana.common.files import write_json
from lana.delivery import device_measurements
from lana.delivery.device_measurements import measured_teacher_ms, read_back
from lana.errors import UserError
from lana.selection.measurement_log import LatencyLog
from profilers import LatencyTable, ProfilerError, RuntimeSettings
from profilers.table_file import Header

TABLE = LatencyTable(
    header=Header(
        runtime="onnxruntime-cpu",
        versions={},
        settings=RuntimeSettings(),
        device="a processor",
        reference_s={"compute": 1e-3, "memory": 1e-3, "dispatch": 1e-4},
    )
)


@pytest.fixture
def device(tmp_path):
    write_json(tmp_path / "near" / "sent.json", {"student 0": {"a": "half"}, "student 1": {"a": "none"}})
    return tmp_path / "near"


def measured(path, *ratios, name="student 0", teacher_ms=2.0):
    about = {"label": "near", "runtime": "onnxruntime-cpu", "settings": RuntimeSettings().to_json()}
    network = {"name": name, "ratios": ratios, "reference_ms": [teacher_ms] * len(ratios)}
    path.write_text(json.dumps({**about, "device": "a processor", "networks": [network] if ratios else []}))
    return path


def test_a_file_is_read_once(device, tmp_path):
    path = measured(tmp_path / "m.json", 0.5, 0.5)
    for _ in range(2):
        assert [row.ratios for row in read_back(device, [path, path], TABLE).rows] == [(0.5, 0.5)]
    assert measured_teacher_ms(device) == 2.0


@pytest.mark.parametrize("failing", ["write_json", "LatencyLog.add"])
def test_a_failure_between_the_files_leaves_what_the_same_command_mends(device, tmp_path, monkeypatch, failing):
    path = measured(tmp_path / "m.json", 0.5, 0.5)

    def fail(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(*(LatencyLog, "add") if failing == "LatencyLog.add" else (device_measurements, failing), fail)
        with pytest.raises(OSError, match="full"):
            read_back(device, [path], TABLE)
    assert not (device / "measured_students.csv").exists()
    assert [row.ratios for row in read_back(device, [path], TABLE).rows] == [(0.5, 0.5)]
    assert measured_teacher_ms(device) == 2.0


@pytest.mark.parametrize("ratios", [(0, 0.5), (float("nan"), 0.5), ()])
def test_nothing_is_written_where_one_of_several_files_is_refused(device, tmp_path, ratios):
    good, bad = measured(tmp_path / "good.json", 0.5), measured(tmp_path / "bad.json", *ratios)
    with pytest.raises((UserError, ProfilerError), match=r"no measurements of networks|no network that"):
        read_back(device, [good, bad], TABLE)
    assert sorted(path.name for path in device.iterdir()) == ["sent.json"]


def test_files_read_before_the_log_held_digests_stay_read(device, tmp_path):
    import hashlib

    path = measured(tmp_path / "m.json", 0.5)
    write_json(device / "read.json", [hashlib.sha256(path.read_bytes()).hexdigest()])
    assert read_back(device, [path], TABLE).rows == []


@pytest.mark.parametrize("teacher_ms", [0, -1, None, "2", float("nan")])
def test_a_teacher_that_takes_no_time_is_refused(device, teacher_ms):
    write_json(device / "teacher.json", {"teacher_ms": teacher_ms})
    with pytest.raises(UserError, match=r"teacher\.json gives the teacher"):
        measured_teacher_ms(device)
