"""The round trip over a device with nothing of ours: archive → run.py → what it sends back."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest
from computations import exported_convolution, onnx_convolution

from profilers import Computation, LatencyTable, ProfilerError, RuntimeSettings
from profilers.bundle import MEASUREMENTS, TABLE, read_measurements, write_bundle

FORBIDDEN = ("torch", "lana", "pandas", "onnx", "solvers")


def unpacked(tmp_path, kind, **more):
    computations = [onnx_convolution(tmp_path, key=f"n{n}", layers=n) for n in (1, 16)]
    archive = write_bundle(
        tmp_path / "out.zip", computations, runtime="onnxruntime-cpu", settings=RuntimeSettings(), kind=kind, **more
    )
    zipfile.ZipFile(archive).extractall(tmp_path / "device")
    for computation in computations:
        computation.file.unlink()  # the archive has its own
    return tmp_path / "device"


def run_there(device, python=sys.executable, without=FORBIDDEN):
    # Whatever a bare device has not is refused, in this process and in those that it starts.
    blocker = device.parent / "blocker"
    blocker.mkdir(exist_ok=True)
    (blocker / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {without}:\n"
        "            raise ImportError(f'a bare device has no {name}')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(blocker), "LANA_HOME": str(device.parent / "home")}
    return subprocess.run(
        [python, "run.py"], cwd=device, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_table_comes_back(tmp_path):
    device = unpacked(tmp_path, "table")
    result = run_there(device)
    assert result.returncode == 0, result.stderr
    assert "2/2" in result.stdout
    table = LatencyTable.read(device / TABLE)
    assert 0 < table.lookup("n1").latency_ms < table.lookup("n16").latency_ms


def test_measurements_of_networks_come_back(tmp_path):
    device = unpacked(tmp_path, "networks", processes=2)
    result = run_there(device)
    assert result.returncode == 0, result.stderr
    found = read_measurements(device / MEASUREMENTS)
    assert found.runtime == "onnxruntime-cpu"
    assert list(found.networks) == ["n16 of 16"]
    assert found.networks["n16 of 16"].ratio > 1
    assert len(found.networks["n16 of 16"].ratios) == 2


def test_weights_beside_an_onnx_file_come_along(tmp_path):
    import onnx

    written, kept_apart = onnx_convolution(tmp_path), tmp_path / "apart" / "network.onnx"
    kept_apart.parent.mkdir()
    onnx.save_model(
        onnx.load(written.file), kept_apart, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    computation = Computation.from_onnx(kept_apart)
    assert computation.beside == ("weights.bin",)
    assert Computation.from_json(computation.to_json(tmp_path), tmp_path) == computation
    archive = write_bundle(tmp_path / "out.zip", [computation], runtime="onnxruntime-cpu", settings=RuntimeSettings())
    zipfile.ZipFile(archive).extractall(tmp_path / "device")
    shutil.rmtree(kept_apart.parent)
    result = run_there(tmp_path / "device")
    assert result.returncode == 0, result.stderr
    assert LatencyTable.read(tmp_path / "device" / TABLE).lookup(computation.key).latency_ms > 0


@pytest.mark.serial  # some 20 s of measuring in processes of torch
def test_a_device_with_torch_runs_exported_programs(tmp_path):
    made = [exported_convolution(tmp_path)]
    archive = write_bundle(tmp_path / "out.zip", made, runtime="torch-cpu", settings=RuntimeSettings())
    zipfile.ZipFile(archive).extractall(tmp_path / "device")
    result = run_there(tmp_path / "device", without=("lana", "solvers"))
    assert result.returncode == 0, result.stderr
    table = LatencyTable.read(tmp_path / "device" / TABLE)
    assert table.lookup("conv").latency_ms > 0
    assert table.header.runtime == "torch-cpu"


@pytest.mark.slow
def test_in_a_bare_environment(tmp_path):
    device = unpacked(tmp_path, "table")
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "onnxruntime"], check=True, capture_output=True)
    result = run_there(device, python)
    assert result.returncode == 0, result.stderr
    assert len(LatencyTable.read(device / TABLE)) == 2


def test_the_package_is_named_as_pip_calls_it(tmp_path):
    more = {"runtime": "onnxruntime-cuda", "settings": RuntimeSettings()}
    archive = zipfile.ZipFile(write_bundle(tmp_path / "out.zip", [onnx_convolution(tmp_path)], **more))
    assert "pip install numpy onnxruntime-gpu\n" in archive.read("README.txt").decode()
    assert "numpy onnxruntime-gpu." in archive.read("run.py").decode()


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        (
            "torch-cpu",
            "'torch_export', the archive's are 'onnx'.*: onnxruntime-cpu, onnxruntime-cuda, openvino, tensorrt;",
        ),
        ("onnxruntime-gpu", "There is no runtime 'onnxruntime-gpu'"),
    ],
)
def test_a_runtime_of_another_format_is_refused(tmp_path, runtime, message):
    with pytest.raises(ProfilerError, match=message):
        write_bundle(tmp_path / "o.zip", [onnx_convolution(tmp_path)], runtime=runtime, settings=RuntimeSettings())
    assert not (tmp_path / "o.zip").exists()


def test_an_archive_is_there_whole_or_not_at_all(tmp_path):
    gone = onnx_convolution(tmp_path)
    gone.file.unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "out" / "o.zip", [gone], runtime="onnxruntime-cpu", settings=RuntimeSettings())
    assert not list((tmp_path / "out").iterdir())


def test_what_is_no_measurement_is_refused(tmp_path):
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(ProfilerError, match=r"Expected the measurements\.json"):
        read_measurements(tmp_path / "m.json")
    with pytest.raises(ProfilerError, match="at least one"):
        write_bundle(tmp_path / "o.zip", [], runtime="onnxruntime-cpu", settings=RuntimeSettings())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "0"), "expected at least 1"),
        (("--runtime", "foo"), "no runtime 'foo'"),
        (("--runtime", "torch-cpu"), "runs files of format 'torch_export', the archive's are 'onnx'"),
    ],
)
def test_mistakes_there_are_told_in_a_line(tmp_path, arguments, message):
    device = unpacked(tmp_path, "table")
    result = subprocess.run(
        [sys.executable, "run.py", *arguments], cwd=device, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


GOOD = {
    "label": "near",
    "runtime": "onnxruntime-cpu",
    "settings": RuntimeSettings().to_json(),
    "device": "a processor",
    "networks": [{"name": "student 0", "ratios": [0.5, 0.6], "reference_ms": [1.0, 1.1]}],
}


def with_network(**change):
    return {**GOOD, "networks": [{**GOOD["networks"][0], **change}]}


def test_figures_that_can_be_are_read(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(GOOD))
    assert read_measurements(tmp_path / "m.json").networks["student 0"].ratios == (0.5, 0.6)


@pytest.mark.parametrize(
    "content",
    [
        *(with_network(ratios=[value, 0.5]) for value in (0, -0.3, 1e-6, None, "0.5", [0.5], True, float("nan"))),
        *(with_network(ratios=[value, 0.5]) for value in (float("inf"), 10**400, {})),
        *(with_network(reference_ms=[value, 1.0]) for value in (0, -1, None, "1", float("nan"))),
        *(with_network(ratios=value) for value in ([], None, 0.5, "0.5, 0.6", {"0": 0.5}, [0.5])),
        *(with_network(name=value) for value in (None, 3, ["student 0"])),
        {**GOOD, "networks": GOOD["networks"] * 2},
        {**GOOD, "networks": [None]},
        {**GOOD, "networks": None},
        {**GOOD, "label": None},
        {**GOOD, "device": 3},
        {**GOOD, "settings": "one thread"},
        {**GOOD, "settings": {**GOOD["settings"], "threads": "1"}},
        [GOOD],
        "text",
    ],
    ids=lambda content: json.dumps(content)[-60:],
)
def test_figures_that_cannot_be_are_refused(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ProfilerError, match="holds no measurements of networks") as refused:
        read_measurements(path)
    assert len(str(refused.value)) < 700 + len(str(path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_measurements_that_are_no_json_are_refused(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(ProfilerError, match="holds no measurements of networks"):
        read_measurements(path)
