"""What every runtime promises; one that cannot run here is skipped, with the reason, and has not been tested."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
from computations import SPEC, expected_convolution, exported_convolution, onnx_convolution, unknown_operator

from profilers import (
    BuildFailed,
    ProfilerError,
    RuntimeSettings,
    RuntimeUnavailable,
    create_runtime,
    runtime_statuses,
)
from profilers.environment import processor
from profilers.kernels import KERNELS
from profilers.onnxruntime_runtime import OnnxRuntime
from profilers.registry import RUNTIMES
from profilers.sweep import device_of


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    """Runtimes flush denormals on the threads they run on, which a measuring process wants and later tests do not."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


class RuntimeContract:
    name = ""
    tolerance = 1e-4

    def computation(self, folder):
        return onnx_convolution(folder)

    def runtime(self, **settings):
        try:
            return create_runtime(self.name, RuntimeSettings(**settings))
        except RuntimeUnavailable as error:
            pytest.skip(f"DID NOT RUN: {error}")

    def test_computes_what_the_file_says(self, tmp_path):
        x = np.random.default_rng(0).standard_normal(SPEC.shape).astype(np.float32)
        with self.runtime().prepare(self.computation(tmp_path)) as session:
            session.run()
            (found,) = session.outputs([x])
        np.testing.assert_allclose(found, expected_convolution(x), atol=self.tolerance)

    def test_times_each_run(self, tmp_path):
        with self.runtime().prepare(self.computation(tmp_path)) as session:
            durations = session.durations(5, time.perf_counter)
        assert len(durations) == 5
        assert all(0 < duration < 10 for duration in durations)

    def test_a_file_that_it_does_not_take_is_a_failed_build(self, tmp_path):
        runtime = self.runtime()
        broken = self.computation(tmp_path)
        broken.file.write_bytes(b"no model")
        with pytest.raises(BuildFailed):
            runtime.prepare(broken)
        with pytest.raises(BuildFailed, match="is not there"):
            runtime.prepare(dataclasses.replace(broken, file=tmp_path / "none"))

    def test_another_batch_than_the_settings_is_refused(self, tmp_path):
        with pytest.raises(BuildFailed, match="the settings have 2"):
            self.runtime(batch=2).prepare(self.computation(tmp_path))

    def test_a_closed_session_cannot_run(self, tmp_path):
        session = self.runtime().prepare(self.computation(tmp_path))
        session.close()
        with pytest.raises(ProfilerError, match="was closed"):
            session.run()

    def test_offers_the_calibration_kernels(self, tmp_path):
        runtime = self.runtime()
        for kernel in KERNELS:
            with runtime.kernel(kernel, tmp_path) as session:
                assert min(session.durations(2, time.perf_counter)) > 0

    def test_computes_in_the_calling_thread_if_it_says_so(self, tmp_path):
        import torch

        runtime = self.runtime()
        torch.set_num_threads(1)
        with runtime.kernel("compute", tmp_path) as session:
            session.run()
            thread_s, process_s = time.thread_time(), time.process_time()
            for _ in range(50):
                session.run()
            share = (time.thread_time() - thread_s) / (time.process_time() - process_s)
        assert runtime.computes_in_caller() == ("cuda" not in self.name and self.name != "tensorrt")
        assert share > 0.7 or not runtime.computes_in_caller()

    def test_names_the_versions_that_decide_its_speed(self):
        versions = self.runtime().versions()
        assert versions
        assert all(versions.values())


class OnnxContract(RuntimeContract):
    def test_an_unknown_operator_is_a_failed_build(self, tmp_path):
        with pytest.raises(BuildFailed, match="Frobnicate"):
            self.runtime().prepare(unknown_operator(tmp_path))


class TestOnnxRuntimeCpu(OnnxContract):
    name = "onnxruntime-cpu"

    def test_threads_that_share_a_pool_compute_the_same(self, tmp_path):
        """In a process of its own: a pool for all sessions is made before the first one."""
        self.computation(tmp_path).save(tmp_path / "computation.json")
        program = (
            "import numpy, profilers\n"
            "runtime = profilers.create_runtime('onnxruntime-cpu', profilers.RuntimeSettings(threads=2))\n"
            "runtime.dedicate()\n"
            f"one = profilers.Computation.load({str(tmp_path / 'computation.json')!r})\n"
            f"session, x = runtime.prepare(one), numpy.ones({SPEC.shape}, numpy.float32)\n"
            f"assert runtime.shared\n"
            f"numpy.save({str(tmp_path / 'found.npy')!r}, session.outputs([x])[0])\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)
        expected = expected_convolution(np.ones(SPEC.shape, np.float32))
        np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-4)

    def test_packages_of_another_name_have_a_version_too(self, monkeypatch):
        monkeypatch.setattr(
            "importlib.metadata.version", lambda name: pytest.fail("onnxruntime-gpu is called otherwise")
        )
        assert self.runtime().versions()["onnxruntime"][0].isdigit()

    def test_a_gpu_is_part_of_what_a_figure_was_measured_on(self, monkeypatch):
        monkeypatch.setattr("profilers.onnxruntime_runtime.gpu", lambda: "a GPU")
        cuda = OnnxRuntime(RuntimeSettings(), name="onnxruntime-cuda")
        assert device_of(cuda) == f"{processor()}; a GPU"
        assert device_of(self.runtime()) == processor()


class TestOnnxRuntimeProvider(OnnxContract):
    name = "onnxruntime:CPUExecutionProvider"


class TestOpenVino(OnnxContract):
    name = "openvino"

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_a_precision_that_it_does_not_compute_in_is_no_figure(self, tmp_path, precision):
        runtime = self.runtime(precision=precision)
        import openvino

        capable = {"fp16": "FP16", "bf16": "BF16"}[precision] in openvino.Core().get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        )
        if capable:
            x = np.ones(SPEC.shape, np.float32)
            with runtime.prepare(self.computation(tmp_path)) as session:
                np.testing.assert_allclose(session.outputs([x])[0], expected_convolution(x), atol=0.02)
        else:
            with pytest.raises(
                BuildFailed, match=rf"computes in (?!{precision})\w+ on this processor, not in {precision}"
            ):
                runtime.prepare(self.computation(tmp_path))


class TestTorchCpu(RuntimeContract):
    name = "torch-cpu"

    def computation(self, folder):
        return exported_convolution(folder)

    def test_half_precision_is_near(self, tmp_path):
        x = np.ones(SPEC.shape, np.float32)
        with self.runtime(precision="bf16").prepare(self.computation(tmp_path)) as session:
            np.testing.assert_allclose(session.outputs([x])[0], expected_convolution(x), atol=0.02)


@pytest.mark.slow
class TestTorchCpuCompiled(TestTorchCpu):
    name = "torch-cpu-compiled"


@pytest.mark.gpu
class TestOnnxRuntimeCuda(OnnxContract):
    name = "onnxruntime-cuda"
    tolerance = 5e-3


@pytest.mark.gpu
class TestTensorRT(OnnxContract):
    name = "tensorrt"
    tolerance = 5e-3


@pytest.mark.gpu
class TestTorchCuda(TestTorchCpu):
    name = "torch-cuda"
    tolerance = 5e-3


@pytest.mark.gpu
class TestTorchCudaCompiled(TestTorchCuda):
    name = "torch-cuda-compiled"


def test_every_runtime_has_a_contract():
    covered = {kind.name for kind in globals().values() if isinstance(kind, type) and issubclass(kind, RuntimeContract)}
    assert set(RUNTIMES) <= covered


def test_statuses_say_why_not_and_how_to_get_it():
    statuses = {status.name: status for status in runtime_statuses()}
    assert set(statuses) == set(RUNTIMES)
    for status in statuses.values():
        assert status.available == (not status.reason)
        assert status.install.startswith("pip install")
        assert bool(status.versions) == status.available


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "expected at least 1"),
        ({"precision": "int3"}, "expected one of fp32"),
        ({"threads": 2, "affinity": (0,)}, "fewer processors than threads"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ProfilerError, match=message):
        RuntimeSettings(**settings)


def test_a_precision_that_a_runtime_cannot_choose_is_refused():
    with pytest.raises(ProfilerError, match="cannot choose precision 'fp16'"):
        create_runtime("onnxruntime-cpu", RuntimeSettings(precision="fp16"))
