"""Builds every candidate and writes the file that is measured, once per structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from lana.errors import UserError
from lana.exporters.computation import to_computation
from lana.exporters.tracing import ExportFailed
from lana.models.student import own_module
from lana.models.teacher import Teacher
from lana.networks.layers import Layer, LayerScan
from lana.networks.repeated import AtShapes
from lana.networks.structure import structure, structure_key
from lana.operations.families import Operation
from lana.pool.candidates import Candidate, not_built, planned_candidates
from lana.quantization.int8_files import conversion_computation, operation_computation, precision_text
from lana.quantization.onnx_quantizer import QuantizationFailed
from lana.quantization.scheme import Scheme
from profilers.computation import Computation


class Builder:
    """Builds operations at their layers and writes one computation a structure; nothing is measured.

    An operation that cannot be built or exported is a candidate that is not kept, with the reason.
    """

    def __init__(
        self, teacher: Teacher, *, batch: int, folder: Path, format: str = "onnx", scheme: Scheme | None = None
    ) -> None:
        self.teacher, self.batch, self.folder, self.format = teacher.module, batch, folder, format
        self.scheme = scheme or Scheme()
        self.computations: dict[str, Computation] = {}
        self._structures: dict[str, str] = {}
        self._known: dict[tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...], str], Candidate] = {}

    def candidate(self, layer: Layer, operation: Operation) -> Candidate:
        example = torch.randn(self.batch, *layer.input_shape, generator=torch.Generator().manual_seed(0))
        if layer.name not in self._structures:
            self._structures[layer.name] = structure_key(own_module(self.teacher, layer), (example,))
        place = (self._structures[layer.name], layer.output_shape, layer.other_shapes, operation.name)
        if place not in self._known:
            self._known[place] = self._built(layer, operation, example)
        return dataclasses.replace(self._known[place], layer=layer)

    def _built(self, layer: Layer, operation: Operation, example: torch.Tensor) -> Candidate:
        if operation.name == "identity@int8":
            made = self.conversion(layer.input_shape)
            return self._candidate(layer, operation, made.key, made.columns)
        try:
            own = own_module(self.teacher, layer)
            module = own if operation.name == "teacher" else operation.build(layer, own)
            if layer.other_shapes:
                module, example = self._at_all_shapes(layer, module)
            precision = "fp32" if operation.precision == "fp32" else precision_text(self.scheme)
            key, columns = structure(module, (example,), precision)
        except UserError:
            raise
        except Exception as error:  # one operation that fails at one layer must not end the run: it is named instead
            reason = f"cannot be built: {type(error).__name__}: {str(error)[:150]}"
            return not_built(layer, operation, reason)
        candidate = self._candidate(layer, operation, key, columns)
        shapes = [" ".join(str(size) for size in shape) for shape in (layer.input_shape, layer.output_shape)]
        labels = {
            "operation": operation.name,
            "family": operation.family,
            "layer": layer.name,
            "input_shape": shapes[0],
            "output_shape": shapes[1],
        }
        try:
            computation = self._written(operation, module, example, (key, columns))
        except (ExportFailed, QuantizationFailed) as error:
            return dataclasses.replace(candidate, kept=False, reason=str(error))
        self.computations.setdefault(key, dataclasses.replace(computation, labels=labels))
        return candidate

    def _at_all_shapes(self, layer: Layer, module: nn.Module) -> tuple[nn.Module, torch.Tensor]:
        """A module as all calls of its layer together, and an input for it.

        Raises:
            ValueError: at another shape than the first its outputs have other shapes than the layer's own.
        """
        shapes = (layer.input_shape, *layer.other_shapes)
        made, own = (AtShapes(one, shapes).eval() for one in (module, own_module(self.teacher, layer)))
        example = torch.randn(self.batch, *made.input_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            if made(example).shape != own(example).shape:
                raise ValueError("it gives outputs of other shapes where the layer is called again")
        return made, example

    def conversion(self, shape: tuple[int, ...]) -> Computation:
        """The conversion of a tensor of this shape to int8 and back."""
        name = f"conversion@int8 ({' '.join(str(size) for size in shape)})"
        example = torch.zeros(self.batch, *shape)
        made = conversion_computation(example, self.folder, name=name, scheme=self.scheme)
        return self.computations.setdefault(made.key, made)

    @staticmethod
    def _candidate(layer: Layer, operation: Operation, key: str, columns: Mapping[str, float]) -> Candidate:
        return Candidate(
            layer=layer,
            operation=operation.name,
            family=operation.family,
            key=key,
            parameters=columns["parameters"],
            macs=columns["macs"],
            operators=columns["operators"],
            activations=columns["activations"],
        )

    def _written(
        self, operation: Operation, module: nn.Module, example: torch.Tensor, known: tuple[str, dict[str, float]]
    ) -> Computation:
        name = f"{operation.name} ({' '.join(str(size) for size in example.shape[1:])})"
        if operation.precision == "fp32":
            return to_computation(module, example, self.folder, name=name, format=self.format, known=known)
        return operation_computation(module, example, self.folder, name=name, scheme=self.scheme, known=known)


def make_candidates(
    teacher: Teacher,
    scan: LayerScan,
    pool: str,
    *,
    batch: int,
    folder: Path,
    format: str = "onnx",
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> tuple[list[Candidate], list[Computation]]:
    """All that a pool offers, built and written."""
    builder, candidates = Builder(teacher, batch=batch, folder=folder, format=format), []
    planned = planned_candidates(teacher, scan, pool)
    for layer, operation in planned:
        candidates.append(builder.candidate(layer, operation))
        on_progress(len(candidates) / len(planned), layer.name)
    return candidates, list(builder.computations.values())
