"""Computations as stored files give them."""

import pytest
from computations import exported_convolution, onnx_convolution

from profilers import Computation, ProfilerError


def test_former_names_of_formats_are_read(tmp_path):
    for made in (onnx_convolution(tmp_path), exported_convolution(tmp_path)):
        fields = made.to_json(tmp_path)
        fields["form"] = {"onnx": "onnx", "torch_export": "exported"}[fields.pop("format")]
        del fields["precision"]
        assert Computation.from_json(fields, tmp_path) == made


def test_an_unknown_format_is_refused(tmp_path):
    fields = {**onnx_convolution(tmp_path).to_json(tmp_path), "format": "caffe"}
    with pytest.raises(ProfilerError, match="expected one of onnx, torch_export, openvino, tensorrt"):
        Computation.from_json(fields, tmp_path)
