"""A module as a `Computation`: the file that a runtime measures, named by its structure."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lana.exporters.onnx_export import export_onnx
from lana.exporters.torch_export import export_program
from lana.networks.structure import structure
from profilers.computation import Computation, TensorSpec
from profilers.formats import SUFFIXES

_EXPORTERS = {"onnx": export_onnx, "torch_export": export_program}


def to_computation(
    module: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    name: str,
    format: str = "onnx",
    known: tuple[str, dict[str, float]] | None = None,
    stem: str | None = None,
) -> Computation:
    """A module as a `Computation` in `folder`; the file is named by its structural key, and then written only once.

    `known` is what `structure` gives, where the caller has called it. With a `stem` the file is named so and written
    anew.

    Raises:
        ExportFailed: the module cannot be written in this format.
    """
    key, columns = known or structure(module, (example,))
    path = folder / f"{stem or key}{SUFFIXES[format]}"
    if stem or not path.is_file():
        _EXPORTERS[format](module, example, path)
    return Computation(key=key, name=name, format=format, file=path, inputs=(input_spec(example),), columns=columns)


def input_spec(example: Tensor) -> TensorSpec:
    """The one input of an exported file."""
    return TensorSpec(name="input", shape=tuple(example.shape), dtype=str(example.dtype).removeprefix("torch."))
