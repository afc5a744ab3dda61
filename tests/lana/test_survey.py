"""`lana survey`: every runtime × precision × threads of this machine, and which of them are worth a look."""

import json

import pytest
from click.testing import CliRunner

from lana.cli import main
from lana.survey import Row, _on_front
from profilers import runtime_statuses


@pytest.fixture
def quick(monkeypatch):
    """One short visit of ONNX Runtime, and a runtime that cannot build the network."""
    statuses = [status for status in runtime_statuses() if status.name in ("onnxruntime-cpu", "torch-cpu")]
    monkeypatch.setattr("lana.survey.runtime_statuses", lambda: statuses)
    monkeypatch.setattr("lana.survey.ROUNDS", 1)
    monkeypatch.setattr("lana.survey.SECONDS", 0.02)


@pytest.mark.serial
def test_precisions_are_measured_and_evaluated(quick):
    result = CliRunner().invoke(main, ["survey", "digits-resnet", "--data", "digits", "--threads", "1", "--json"])
    assert result.exit_code == 0, result.output
    rows = {(row["runtime"], row["precision"]): row for row in json.loads(result.output)["rows"]}
    assert rows.keys() == {("onnxruntime-cpu", "fp32"), ("onnxruntime-cpu", "int8"), ("torch-cpu", "fp32")}
    assert rows["onnxruntime-cpu", "fp32"]["ratio"] == 1
    assert rows["onnxruntime-cpu", "int8"]["metric"] > 0.97
    assert rows["onnxruntime-cpu", "int8"]["megabytes"] < 0.5 * rows["onnxruntime-cpu", "fp32"]["megabytes"]
    assert any(row["front"] for row in rows.values())


def test_a_runtime_that_fails_is_a_row_with_the_reason(quick, monkeypatch):
    from profilers import MeasurementFailed

    def fail(setup):
        if setup.runtime == "torch-cpu":
            raise MeasurementFailed("network cannot be measured: no kernel")
        return 1.0

    monkeypatch.setattr("lana.survey._visit_ms", fail)
    result = CliRunner().invoke(main, ["survey", "digits-resnet", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "network cannot be measured" in result.output
    assert "lana compress digits-resnet --data DATA --budget 0.5x --runtime onnxruntime-cpu" in result.output


@pytest.mark.parametrize(
    ("latency_ms", "threads", "metric", "expected"),
    [
        (0.9, 1, 0.5, True),  # the fastest
        (1.5, 1, 0.9, True),  # more accurate
        (1.5, 1, 0.8, False),  # slower than an equally accurate one
        (0.5, 2, 0.8, True),  # faster on more threads
        (None, 1, None, False),
    ],
)
def test_the_front_holds_what_nothing_beats(latency_ms, threads, metric, expected):
    others = [Row(runtime="a", precision="fp32", threads=1, latency_ms=1.0, metric=0.8)]
    row = Row(runtime="b", precision="fp32", threads=threads, latency_ms=latency_ms, metric=metric)
    assert _on_front(row, [*others, row]) is expected


def test_an_unknown_model_is_refused_before_any_work():
    result = CliRunner().invoke(main, ["survey", "digits-resnt"])
    assert result.exit_code == 2
    assert "Unknown model" in result.output
