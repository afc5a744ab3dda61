"""Real measurements of small computations on ONNX Runtime, in fresh processes."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from computations import onnx_convolution, unknown_operator

import profilers
from profilers import (
    Computation,
    LatencyTable,
    MeasurementFailed,
    ProfilerError,
    Protocol,
    RuntimeSettings,
    TensorSpec,
    compare,
    comparison,
)
from profilers import profile as measure
from profilers.isolation import Blame, remove_left_behind, run_job
from profilers.locks import held
from profilers.worker import Status

pytestmark = pytest.mark.serial

QUICK = Protocol(rounds=3, processes=2, most_processes=2, visit_ms=1.0, evict_mb=1.0, timeout_s=60.0)
SETTINGS = RuntimeSettings()


def sweep(computations, table, **more):
    return measure(computations, runtime="onnxruntime-cpu", settings=SETTINGS, table=table, protocol=QUICK, **more)


def worker_with(folder, monkeypatch, source):
    """Measuring processes in which `source` has run: a runtime with a fault."""
    head = "import sys\nif any('profilers.worker' in a for a in sys.orig_argv):\n"
    (folder / "sitecustomize.py").write_text(head + textwrap.indent(textwrap.dedent(source), "    "))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{Path(profilers.__file__).parents[1]}")


def test_a_table_of_real_figures(tmp_path):
    told = []
    labels = {"operation": "chain", "layer": "here", "stage": "1"}
    computations = [onnx_convolution(tmp_path, key=f"n{n}", layers=n, labels=labels) for n in (1, 8, 64)]
    table = sweep(computations, tmp_path / "table.csv", progress=told.append)
    one, eight, many = (table.lookup(f"n{n}") for n in (1, 8, 64))
    assert 0 < one.latency_ms < eight.latency_ms < many.latency_ms
    assert many.p90_ms >= many.latency_ms
    assert one.labels == labels
    assert [state.done for state in told] == [1, 2, 3]
    assert told[-1].seconds_left == 0
    samples = (tmp_path / "table.samples.jsonl").read_text().splitlines()
    assert len(samples) == 3


def test_a_sweep_goes_on_where_it_was(tmp_path):
    first = sweep([onnx_convolution(tmp_path, key="aa")], tmp_path / "table.csv")
    told = []
    both = [onnx_convolution(tmp_path, key="aa"), onnx_convolution(tmp_path, key="bb")]
    second = sweep(both, tmp_path / "table.csv", progress=told.append)
    assert second.lookup("aa") == first.lookup("aa")
    assert [state.name for state in told] == ["bb of 1"]


def test_what_cannot_be_built_is_a_row_with_its_error(tmp_path):
    table = sweep([unknown_operator(tmp_path), onnx_convolution(tmp_path)], tmp_path / "table.csv")
    assert "Frobnicate" in table.lookup("unknown").error
    assert table.lookup("conv").latency_ms > 0


def test_a_crash_is_blamed_on_the_one_that_crashed(tmp_path, monkeypatch):
    worker_with(
        tmp_path,
        monkeypatch,
        """
        import os
        import profilers.onnxruntime_runtime as module
        prepare = module.OnnxRuntime._prepare
        def crash(self, computation):
            if computation.key == 'bad':
                os.kill(os.getpid(), 11)
            return prepare(self, computation)
        module.OnnxRuntime._prepare = crash
        """,
    )
    computations = [onnx_convolution(tmp_path, key=key) for key in ("good", "bad", "fine")]
    table = sweep(computations, tmp_path / "table.csv")
    assert "SIGSEGV" in table.lookup("bad").error
    assert table.lookup("good").latency_ms > 0
    assert table.lookup("fine").latency_ms > 0


def test_one_that_hangs_is_given_up(tmp_path, monkeypatch):
    worker_with(
        tmp_path,
        monkeypatch,
        """
        import time
        import profilers.onnxruntime_runtime as module
        module.OnnxRuntime._prepare = lambda self, computation: time.sleep(3600)
        """,
    )
    computation = onnx_convolution(tmp_path)
    blame = run_job(
        {"kind": "compare", "seconds": 0.1, "seed": 0},
        runtime="onnxruntime-cpu",
        settings=SETTINGS,
        computations=[computation],
        timeout_s=1.0,
    )
    assert isinstance(blame, Blame)
    assert blame.item == 0
    assert "no answer within 1 s" in blame.message


@pytest.mark.skipif(sys.platform != "linux", reason="DID NOT RUN: reads from /proc whether a process is alive")
def test_a_worker_ends_with_its_parent(tmp_path):
    onnx_convolution(tmp_path).save(tmp_path / "computation.json")
    parent = (
        "import subprocess, profilers\n"
        "class Told(subprocess.Popen):\n"
        "    def __init__(self, *arguments, **options):\n"
        "        super().__init__(*arguments, **options)\n"
        "        print(self.pid, options['cwd'], flush=True)\n"
        "subprocess.Popen = Told\n"
        f"one = profilers.Computation.load({str(tmp_path / 'computation.json')!r})\n"
        "settings = profilers.RuntimeSettings()\n"
        "profilers.compare(one, [one], runtime='onnxruntime-cpu', settings=settings, seconds_per_process=300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        worker, folder = process.stdout.readline().split()
        try:
            wait_until(lambda: Status.read(Path(folder) / "status")[1] >= 0)  # it measures
        finally:
            process.kill()
    wait_until(lambda: not alive(int(worker)))
    assert not Path(folder).exists()


def wait_until(true, seconds=60):
    until_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_networks_are_compared_side_by_side(tmp_path):
    reference, longer = (onnx_convolution(tmp_path, key=f"n{n}", layers=n) for n in (16, 64))
    same, four = compare(
        reference,
        [reference, longer],
        runtime="onnxruntime-cpu",
        settings=SETTINGS,
        processes=3,
        seconds_per_process=0.2,
    )
    assert len(four.ratios) == len(four.reference_ms) == 3
    assert same.ratio < four.ratio


def test_a_network_that_cannot_be_measured_is_named(tmp_path):
    with pytest.raises(MeasurementFailed, match="an operator that nobody knows cannot be measured"):
        compare(
            onnx_convolution(tmp_path),
            [unknown_operator(tmp_path)],
            runtime="onnxruntime-cpu",
            settings=SETTINGS,
            processes=1,
        )


def test_nothing_of_the_users_folder_is_imported(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert sweep([onnx_convolution(tmp_path)], tmp_path / "table.csv").lookup("conv").latency_ms > 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="DID NOT RUN: no affinity on this system")
def test_affinity_that_the_machine_has_not_is_told(tmp_path):
    with pytest.raises(ProfilerError, match="this process may use") as told:
        measure(
            [onnx_convolution(tmp_path)],
            runtime="onnxruntime-cpu",
            settings=RuntimeSettings(affinity=(4095,)),
            table=tmp_path / "t.csv",
            protocol=QUICK,
        )
    assert "Traceback" not in str(told.value)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="DID NOT RUN: no process groups on this system")
def test_one_that_ends_with_all_its_group_leaves_nothing_behind(tmp_path):
    table, place = tmp_path / "table.csv", tmp_path / "temporary"
    place.mkdir()
    computation = onnx_convolution(tmp_path, layers=64)
    program = f"""
from pathlib import Path
from profilers import Computation, Protocol, RuntimeSettings, profile
computation = Computation.from_json({computation.to_json(tmp_path)!r}, Path({str(tmp_path)!r}))
profile([computation], runtime="onnxruntime-cpu", settings=RuntimeSettings(), table={str(table)!r},
        protocol=Protocol(rounds=10_000, limit_s=100))
"""
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(Path(profilers.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)
    wait_until(lambda: any(Status.read(path)[1] >= 0 for path in place.glob("lana-measure-*/status")))
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    wait_until(lambda: not list(place.glob("lana-measure-*")))


def test_a_computation_survives_its_json(tmp_path):
    computation = onnx_convolution(tmp_path)
    computation.save(tmp_path / "c.json")
    assert Computation.load(tmp_path / "c.json") == computation
    assert computation.exporter == "lana"
    assert [sample.dtype for sample in computation.samples()] == [np.float32]


def test_any_onnx_file_is_a_computation(tmp_path):
    written = onnx_convolution(tmp_path)
    found = Computation.from_onnx(written.file)
    assert found.inputs == written.inputs
    assert found.key.isalnum()
    (tmp_path / "no.onnx").write_text("no model")
    with pytest.raises(ProfilerError, match="cannot be read as ONNX"):
        Computation.from_onnx(tmp_path / "no.onnx")


def test_the_same_device_keeps_its_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("LANA_HOME", str(tmp_path / "home"))
    first = sweep([onnx_convolution(tmp_path, key="aa")], tmp_path / "a.csv")
    second = sweep([onnx_convolution(tmp_path, key="bb")], tmp_path / "b.csv")
    assert first.header.reference_s == second.header.reference_s
    assert len(LatencyTable.read(tmp_path / "a.csv").merge(second)) == 2


def test_rows_that_are_known_are_not_measured_again(tmp_path):
    known = sweep([onnx_convolution(tmp_path, key="aa")], tmp_path / "library" / "known.csv")
    (tmp_path / "library" / "notes.csv").write_text("not,a,table\n")
    told = []
    both = [onnx_convolution(tmp_path, key=key) for key in ("aa", "bb")]
    table = sweep(both, tmp_path / "new.csv", libraries=[tmp_path / "library"], progress=told.append)
    assert [state.name for state in told] == ["bb of 1"]
    assert table.lookup("aa").latency_ms == pytest.approx(known.lookup("aa").latency_ms)
    assert table.lookup("aa").measured == known.lookup("aa").measured


def test_one_exporter_whatever_build_it_tells(tmp_path):
    files = [tmp_path / "plain.onnx", tmp_path / "built.onnx"]
    for file, version in zip(files, (b"2.13.0", b"2.13.0+cpu"), strict=True):
        file.write_bytes(bytes([0x08, 8, 0x12, 7]) + b"pytorch" + bytes([0x1A, len(version)]) + version)
    spec = TensorSpec(name="x", shape=(1,), dtype="float32")
    found = [Computation(key="aa", name="a", format="onnx", file=file, inputs=(spec,)).exporter for file in files]
    assert found == ["pytorch 2.13.0", "pytorch 2.13.0"]


def test_what_fails_only_beside_others_is_measured_alone(tmp_path, monkeypatch):
    worker_with(
        tmp_path,
        monkeypatch,
        """
        import profilers.onnxruntime_runtime as module
        prepare, there = module.OnnxRuntime._prepare, []
        def full(self, computation):
            if not computation.key.startswith('calibration'):
                there.append(computation.key)
                if computation.key == 'large' and len(there) > 1:
                    raise MemoryError('nothing left')
            return prepare(self, computation)
        module.OnnxRuntime._prepare = full
        """,
    )
    computations = [onnx_convolution(tmp_path, key=key) for key in ("good", "large")]
    table = sweep([*computations, unknown_operator(tmp_path)], tmp_path / "table.csv")
    assert table.lookup("large").latency_ms > 0
    assert table.lookup("good").latency_ms > 0
    assert "Frobnicate" in table.lookup("unknown").error


def test_a_fault_that_breaks_what_comes_after_it_is_one_row(tmp_path, monkeypatch):
    """As a CUDA context is broken by an illegal access: all that follows fails, calibrating too."""
    worker_with(
        tmp_path,
        monkeypatch,
        """
        import profilers.calibration as calibration, profilers.onnxruntime_runtime as module
        prepare, index, broken = module.OnnxRuntime._prepare, calibration.Calibrator.index, []
        def faulty(self, computation):
            if computation.key == 'bad':
                broken.append(computation.key)
            if broken:
                raise RuntimeError('an illegal access')
            return prepare(self, computation)
        def calibrated(self):
            if broken:
                raise RuntimeError('an illegal access')
            return index(self)
        module.OnnxRuntime._prepare, calibration.Calibrator.index = faulty, calibrated
        """,
    )
    computations = [onnx_convolution(tmp_path, key=key) for key in ("good", "bad", "fine")]
    table = sweep(computations, tmp_path / "table.csv")
    assert "an illegal access" in table.lookup("bad").error
    assert table.lookup("good").latency_ms > 0
    assert table.lookup("fine").latency_ms > 0


def test_a_repeated_failure_alone_is_believed_of_the_others(tmp_path, monkeypatch):
    computations, asked = [onnx_convolution(tmp_path, key=f"k{n}") for n in range(9)], []
    sweep(computations[:1], tmp_path / "another.csv")  # from here on the reference is known

    def refusing(group, *more):
        asked.append(len(group))
        return {"rounds": {}, "errors": {one.key: "no such precision" for one in group}}

    with monkeypatch.context() as patch:
        patch.setattr("profilers.sweep._run", refusing)
        table = sweep(computations, tmp_path / "table.csv")
    assert all(table.lookup(one.key).error == "no such precision" for one in computations)
    assert asked == [9, 1, 1, 1]
    # what failed is tried again by the same command
    assert sweep(computations[:1], tmp_path / "table.csv").lookup("k0").latency_ms > 0


def test_killed_processes_put_the_blame_on_no_computation(tmp_path, monkeypatch):
    computations = [onnx_convolution(tmp_path, key=key) for key in ("l0", "l1", "l2", "l3", "s0", "s1")]
    sweep(computations[-1:], tmp_path / "another.csv")  # from here on the reference is known

    def full(group, *more):
        """No memory for more than two at a time, nor for a large one."""
        if len(group) > 2 or any(one.key.startswith("l") for one in group):
            return Blame(item=len(group) - 1, message="it was ended by SIGKILL; it printed nothing")
        return {"rounds": {one.key: [[0, 1.0, 1.0, [1.0]]] * 6 for one in group}, "errors": {}}

    monkeypatch.setattr("profilers.sweep._run", full)
    table = sweep(computations, tmp_path / "table.csv")
    assert [one.key for one in computations if not table.lookup(one.key).error] == ["s0", "s1"]


def test_a_table_killed_before_its_first_row_is_begun_anew(tmp_path):
    path = tmp_path / "table.csv"
    computation = onnx_convolution(tmp_path)
    sweep([computation], path)
    path.write_bytes(path.read_bytes()[:60])
    assert sweep([computation], path).lookup("conv").latency_ms > 0


def test_too_few_rounds_for_an_interval_are_a_row_all_the_same(tmp_path):
    once = dataclasses.replace(QUICK, processes=1, most_processes=1)
    table = measure(
        [onnx_convolution(tmp_path)],
        runtime="onnxruntime-cpu",
        settings=SETTINGS,
        table=tmp_path / "table.csv",
        protocol=once,
    )
    assert table.lookup("conv").interval == math.inf
    assert LatencyTable.read(tmp_path / "table.csv").lookup("conv").noisy


def test_folders_of_dead_starters_are_removed(tmp_path):
    dead, alive, young = (tmp_path / f"lana-measure-{name}" for name in ("dead", "alive", "young"))
    for folder in (dead, alive, young):
        folder.mkdir()
        (folder / "alive").touch()
    for folder in (dead, alive):
        os.utime(folder, (0, 0))
    with held(alive / "alive"):
        os.utime(alive, (0, 0))
        remove_left_behind(tmp_path)
    assert sorted(tmp_path.iterdir()) == [alive, young]


def test_a_killed_process_is_tried_once_more(monkeypatch, tmp_path):
    found = {"errors": {}, "ratios": [[0.5]], "reference_s": [1.0], "calm": [True], "waited": 0.0, "watched": True}
    answers = [Blame(item=0, message="killed", killed=True), found]
    monkeypatch.setattr(comparison, "run_job", lambda *_, **__: answers.pop(0))
    network, more = onnx_convolution(tmp_path), {"runtime": "onnxruntime-cpu", "settings": RuntimeSettings()}
    assert comparison.compare(network, [network], processes=1, **more)[0].ratios == (0.5,)
    answers += [Blame(item=0, message="killed, where memory runs out", killed=True)] * 2
    with pytest.raises(MeasurementFailed, match="where memory runs out"):
        comparison.compare(network, [network], processes=1, **more)
    assert not answers
