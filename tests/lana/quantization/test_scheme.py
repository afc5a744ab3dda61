"""The int8 scheme follows from runtime and processor."""

import pytest

from lana.errors import UserError
from lana.quantization.scheme import Scheme, check_precisions, scheme_of


@pytest.mark.parametrize(
    ("runtime", "machine", "flags", "expected"),
    [
        ("onnxruntime-cpu", "x86_64", {"avx2", "avx512_vnni"}, Scheme()),
        ("onnxruntime-cpu", "AMD64", {"avx_vnni"}, Scheme()),
        ("onnxruntime-cpu", "x86_64", {"avx2"}, Scheme(reduced_range=True)),
        ("openvino", "x86_64", {"amx_int8"}, Scheme()),
        ("onnxruntime-cpu", "aarch64", {"asimddp"}, Scheme(activation="int8")),
        ("tensorrt", "x86_64", set(), Scheme(activation="int8", symmetric=True)),
    ],
)
def test_the_scheme_follows_runtime_and_processor(runtime, machine, flags, expected):
    assert scheme_of(runtime, machine, flags) == expected


def test_a_runtime_without_int8_is_refused():
    with pytest.raises(UserError, match=r"torch-cpu runs no int8 files of lana\. Those that do: onnxruntime-cpu"):
        scheme_of("torch-cpu", "x86_64", {"avx512_vnni"})


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="--precisions 'int4': expected fp32, int8 or both"):
        check_precisions("int4")
