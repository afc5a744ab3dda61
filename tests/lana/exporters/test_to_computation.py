"""The files that runtimes measure: written once, and the same network in half precision."""

import pytest
import torch

from lana.exporters.computation import to_computation
from lana.exporters.parity import onnx_parity
from lana.networks.structure import structure
from profilers.half_precision import in_precision


def test_a_file_is_named_by_structure_and_written_once(digits_teacher, tmp_path):
    module, example = digits_teacher.module, digits_teacher.example(1)
    made = to_computation(module, example, tmp_path, name="teacher")
    assert made.file.name == f"{made.key}.onnx"
    made.file.write_bytes(b"kept")
    known = structure(module, (example,))
    assert to_computation(module, example, tmp_path, name="teacher", known=known) == made
    assert made.file.read_bytes() == b"kept"
    named = to_computation(module, example, tmp_path, name="teacher", format="torch_export", stem="model")
    assert (named.file.name, named.key) == ("model.pt2", made.key)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_in_half_precision_gives_nearly_the_same(digits_teacher, tmp_path, batch):
    module, example = digits_teacher.module, digits_teacher.example(batch)
    made = to_computation(module, example, tmp_path, name="teacher", stem="model")
    half = in_precision(made, "fp16", tmp_path)
    assert half.file.stat().st_size < 0.6 * made.file.stat().st_size
    torch.manual_seed(0)
    inputs = torch.randn_like(example)
    assert onnx_parity(module, made.file, [inputs]) < 1e-5 < onnx_parity(module, half.file, [inputs]) < 1e-2
