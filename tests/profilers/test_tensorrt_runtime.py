"""What TensorRT is asked to build, by a stand-in for it: the engines themselves need a GPU (test_runtimes.py)."""

import enum
import sys
import types
from unittest.mock import MagicMock

import onnx
import pytest
from computations import onnx_convolution

from profilers import BuildFailed, RuntimeSettings
from profilers.tensorrt_runtime import TensorRT


class CreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    """As TensorRT 11 has it: without a flag for a precision but TF32."""

    TF32 = 7


@pytest.fixture(params=["10.13.0", "11.4.0"])
def tensorrt(request, monkeypatch):
    """Keeps the weights of the file that is parsed, by type, in `parsed`."""
    module = types.SimpleNamespace(
        __version__=request.param,
        Logger=MagicMock(),
        Builder=MagicMock(),
        OnnxParser=MagicMock(),
        Runtime=MagicMock(),
        NetworkDefinitionCreationFlag=CreationFlag,
        BuilderFlag=BuilderFlag,
        parsed=[],
    )

    def parse(path):
        module.parsed += [weight.data_type for weight in onnx.load(path).graph.initializer]
        return True

    module.OnnxParser.return_value.parse_from_file = parse
    builder = module.Builder.return_value
    builder.build_serialized_network.return_value = b"plan"
    builder.create_builder_config.return_value.get_timing_cache.return_value.serialize.return_value = b"cache"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(TensorRT, "device", lambda self: "a GPU")
    monkeypatch.setattr("profilers.tensorrt_runtime.TensorRTSession", MagicMock())
    return module


@pytest.mark.parametrize(("precision", "kind"), [("fp32", onnx.TensorProto.FLOAT), ("fp16", onnx.TensorProto.FLOAT16)])
def test_networks_are_strongly_typed_and_files_have_a_precision(tensorrt, tmp_path, precision, kind):
    computation = onnx_convolution(tmp_path)
    TensorRT(RuntimeSettings(precision=precision)).prepare(computation)
    builder = tensorrt.Builder.return_value
    builder.create_network.assert_called_once_with(2)
    assert tensorrt.parsed == [kind]
    config = builder.create_builder_config.return_value
    config.set_flag.assert_not_called()
    config.clear_flag.assert_called_once_with(BuilderFlag.TF32)
    assert computation.file.with_suffix(".engine").read_bytes() == b"plan"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conv.engine", "conv.onnx"]


def test_a_kernel_has_the_precision_too(tensorrt, tmp_path):
    TensorRT(RuntimeSettings(precision="fp16")).kernel("compute", tmp_path)
    assert tensorrt.parsed == [onnx.TensorProto.FLOAT16]


def test_what_cannot_be_built_is_a_failed_build(tensorrt, tmp_path):
    tensorrt.Builder.return_value.build_serialized_network.return_value = None
    with pytest.raises(BuildFailed, match="built no engine"):
        TensorRT(RuntimeSettings()).prepare(onnx_convolution(tmp_path))
