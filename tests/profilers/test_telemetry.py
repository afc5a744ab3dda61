"""Nothing that lana starts reports to others: asked of fresh processes, since a variable counts before an import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from computations import onnx_convolution

from profilers import RuntimeSettings
from profilers.bundle import write_bundle
from profilers.runtime import measuring_environment
from profilers.telemetry import SILENT

ROOT = Path(__file__).resolve().parents[2]
AT_IMPORT = """
import importlib.abc, json, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))

seen = []
sys.meta_path.insert(0, Watch())
"""


def plain_environment(home):
    return {**{name: value for name, value in os.environ.items() if name not in SILENT}, "HOME": str(home)}


def at_import(code, home, cwd=ROOT, **environment):
    """The variable at each search for onnxruntime, in a process that runs this code."""
    result = subprocess.run(
        [sys.executable, "-c", f"{AT_IMPORT}{code}\nprint(json.dumps(seen))"],
        cwd=cwd,
        env={**plain_environment(home), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("code", ["import lana.exporters.parity, onnxruntime", "import profilers, onnxruntime"])
def test_it_is_off_before_onnxruntime_loads(tmp_path, code):
    assert at_import(code, tmp_path) == ["1"]
    assert not [file for file in tmp_path.rglob("*") if "onnxruntime" in file.name]


def test_whoever_wants_it_keeps_it(tmp_path):
    assert at_import("import profilers, onnxruntime", tmp_path, ORT_DISABLE_TELEMETRY="0") == ["0"]


def test_it_is_off_in_measuring_processes(monkeypatch):
    for name in SILENT:
        monkeypatch.delenv(name, raising=False)
    assert SILENT.items() <= measuring_environment(RuntimeSettings()).items()


def test_it_is_off_in_archives(tmp_path):
    archive = write_bundle(
        tmp_path / "out.zip",
        [onnx_convolution(tmp_path)],
        runtime="onnxruntime-cpu",
        settings=RuntimeSettings(),
        kind="networks",
    )
    device = tmp_path / "device"
    code = f"""
import zipfile; zipfile.ZipFile({str(archive)!r}).extractall({str(device)!r})
import runpy; sys.path = [{str(device)!r}] + [p for p in sys.path if p != ""]; sys.argv = ["run.py", "--threads", "0"]
try:
    runpy.run_path({str(device / "run.py")!r})
except SystemExit:
    pass
import onnxruntime
assert sys.modules["profilers"].__file__.startswith({str(device)!r})"""
    found = at_import(code, tmp_path, cwd=tmp_path)
    assert set(found) == {"1"}
