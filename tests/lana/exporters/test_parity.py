"""Files that ONNX Runtime refuses are told in a sentence."""

import pytest
import torch
from torch import nn

from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_parity, relative_error
from lana.exporters.tracing import ExportFailed


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.layers(x)


def test_a_file_that_onnx_runtime_does_not_load_is_told(tmp_path):
    x = torch.randn(1, 1, 8, 8)
    file = export_onnx(Half(), x, tmp_path / "half.onnx")
    with pytest.raises(ExportFailed, match=r"ONNX Runtime does not load .*half\.onnx \("):
        onnx_parity(Half(), file, [x])


def test_outputs_of_bfloat16_are_compared():
    x = torch.randn(2, 1, 8, 8)
    module = Half().eval()
    with torch.no_grad():
        assert relative_error(module, x, [module(x).float().numpy()]) == 0
