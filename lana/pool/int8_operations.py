"""Trained operations as int8 files that run, to be scored: their ranges come from the teacher's features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from lana.data.split import Split
from lana.exporters.tracing import ExportFailed
from lana.models.selection import Pair
from lana.models.student import own_module
from lana.networks.features import captured, forward_until
from lana.networks.layers import Layer
from lana.operations.families import split_precision
from lana.quantization.int8_files import FileNetwork, operation_computation
from lana.quantization.onnx_quantizer import LEAST_INPUTS, QuantizationFailed
from lana.quantization.scheme import Scheme

logger = logging.getLogger(__name__)

RANGE_IMAGES = 128  # on which the ranges of one operation are taken
RANGE_BYTES = 512 << 20  # of its inputs, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class OperationQuantizer:
    """Makes the int8 files of operations that are scored; each runs at `batch`, as it was measured."""

    teacher: nn.Module
    split: Split
    scheme: Scheme
    batch: int = 1

    def modules(
        self, layer: Layer, names: Sequence[str], operations: Mapping[Pair, nn.Module]
    ) -> dict[str, nn.Module | None]:
        """Int8 operation → its file as a module; None for one that cannot be quantized.

        A skip hands on what it gets: it computes nothing in int8.
        """
        inputs = self._inputs(layer)
        return {name: self._module(layer, split_precision(name)[0], operations, inputs) for name in names}

    def _module(
        self, layer: Layer, operation: str, operations: Mapping[Pair, nn.Module], inputs: np.ndarray
    ) -> nn.Module | None:
        if operation == "identity":
            return operations[layer.name, operation]
        module = own_module(self.teacher, layer) if operation == "teacher" else operations[layer.name, operation]
        batches = [inputs[at : at + self.batch] for at in range(0, len(inputs) - self.batch + 1, self.batch)]
        try:
            with TemporaryDirectory() as folder:
                example = torch.from_numpy(batches[0])
                made = operation_computation(
                    module, example, Path(folder), name=operation, scheme=self.scheme, inputs=batches
                )
                return FileNetwork(made.file)
        except (ExportFailed, QuantizationFailed) as error:
            logger.info(f"{operation} at {layer.name} stays in fp32: {error}")
            return None

    def _inputs(self, layer: Layer) -> np.ndarray:
        """The inputs of the layer in the teacher, (N, …); as many images as fit in `RANGE_BYTES`."""
        size = 4 * int(np.prod(layer.input_shape))
        images = max(LEAST_INPUTS, min(RANGE_IMAGES, RANGE_BYTES // size)) * self.batch
        features: list[Tensor] = []
        with captured(self.teacher, [layer]) as found, torch.no_grad():
            for batch, _ in self.split.subset(images).batches(64):
                forward_until(self.teacher, batch)
                features.append(found.pop(layer.name)[0].float().cpu())
        return torch.cat(features).numpy()
