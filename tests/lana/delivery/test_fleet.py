"""A fleet on this machine: two devices of other settings, and one that is offline."""

import json

import pytest
from click.testing import CliRunner

from lana import pipeline
from lana.cli import main
from lana.config.recipe import Recipe

pytestmark = [pytest.mark.serial, pytest.mark.slow, pytest.mark.timeout(1200)]

OPTIONS = {
    "model": "digits-resnet",
    "data": "digits",
    "layers": "blocks.*",
    "pool": "linear_k1",
    "max_span": 1,
    "proposals": 1,
    "refine": 0,
    "calibrate": 8,
    "distill_epochs": 1,
    "distill_images": 64,
    "score_images": 64,
    "epochs": 0,
}

FLEET = """\
run: run
budget: 0.8x
devices:
  - name: desk
  - {name: two-threads, threads: 2}
  - {name: lost, at: "ssh:nobody@192.0.2.99"}
  - {name: other, runtime: tensorrt}
"""


def test_each_device_gets_its_student_and_what_is_offline_is_named(tmp_path):
    pipeline.compress(Recipe(budget="0.8x", **OPTIONS), out=tmp_path / "run", keep_over_budget=True, quiet=True)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    first = CliRunner().invoke(main, ["fleet", str(tmp_path / "fleet.yaml"), "--json"])
    assert first.exit_code == 1, first.output
    rows = {row["device"]: row for row in json.loads(first.output)["devices"]}
    for name in ("desk", "two-threads"):
        assert rows[name]["measured"]
        assert rows[name]["latency_ms"] > 0
        assert rows[name]["student"] == f"fleet-{name}"
        assert (tmp_path / "run" / "students" / f"fleet-{name}" / "model.onnx").is_file()
        assert 0 < rows[name]["accuracy"] <= 1
    assert "ssh" in rows["lost"]["note"] or "offline" in rows["lost"]["note"]
    assert not rows["lost"]["verified"]
    assert rows["other"]["note"]

    tables = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "devices").glob("*/*.csv")}
    again = CliRunner().invoke(main, ["fleet", str(tmp_path / "fleet.yaml")])
    assert "lost" in again.output
    measured = {path for path in tables if path.stem == path.parent.name}
    assert {path.stem for path in measured} == {"desk", "two-threads"}
    assert all(path.stat().st_mtime_ns == tables[path] for path in measured)
