"""Post-training quantization of an ONNX file by ONNX Runtime's own quantizer, whose files its kernels fuse."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

from lana.common.files import write_atomically
from lana.errors import LanaError, UserError
from lana.quantization.scheme import Scheme

STRIDE = 16  # inputs whose intermediate outputs are in memory at a time; also the fewest to take ranges from


class QuantizationFailed(LanaError):
    """A file could not be quantized."""


class Calibration(CalibrationDataReader):
    """Inputs for calibration, handed out in strides: the calibrator keeps every intermediate output of one."""

    def __init__(self, name: str, inputs: Sequence[np.ndarray]) -> None:
        self.name, self.inputs = name, inputs
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return len(self.inputs) // STRIDE * STRIDE  # a stride that is not full is refused

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, np.ndarray] | None:
        index = next(self.left, None)
        if index is None:
            return None
        return {self.name: np.ascontiguousarray(self.inputs[index], dtype=np.float32)}


def quantize_onnx(source: Path, destination: Path, inputs: Sequence[np.ndarray], scheme: Scheme) -> Path:
    """Write the ONNX file `source` with int8 weights and activations (Q/DQ), its ranges from `inputs`.

    Each of the `inputs` has the shape of the file's input.

    Normalisation is folded into convolutions first, as `quantize_static` asks for. Weights are quantized per channel,
    symmetrically; activations per tensor.

    Raises:
        UserError: fewer than 16 inputs.
        QuantizationFailed: a range is not finite, or ONNX Runtime cannot quantize the file.
    """
    if len(inputs) < STRIDE:
        raise UserError(f"{len(inputs)} images are too few to calibrate int8 on. Give data with at least {STRIDE}.")
    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    reader = Calibration(onnx.load(str(source), load_external_data=False).graph.input[0].name, inputs)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(written),
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=scheme.reduced_range,
                activation_type=types[scheme.activation],
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": scheme.symmetric, "CalibStridedMinMax": STRIDE},
            )
        except Exception as error:  # ONNX Runtime raises errors of many kinds
            raise QuantizationFailed(f"{source} cannot be quantized: {type(error).__name__}: {error}") from error
        _check_ranges(written)
        return write_atomically(destination, lambda temporary: temporary.write_bytes(written.read_bytes()))


def _check_ranges(path: Path) -> None:
    """Refuse scales that are not finite: they come from activations that are not."""
    for tensor in onnx.load(str(path)).graph.initializer:
        if tensor.name.endswith("_scale") and not np.isfinite(onnx.numpy_helper.to_array(tensor)).all():
            name = tensor.name.removesuffix("_scale")
            raise QuantizationFailed(f"The range of {name} is not finite on the calibration images.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's own advice, which is followed here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
