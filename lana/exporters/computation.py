"""A module as a `Computation`: the file that a runtime measures, named by its structure."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lana.exporters.onnx_export import export_onnx
from lana.exporters.torch_export import export_program
from lana.networks.structure import structure
from profilers.computation import Computation, TensorSpec

_FORMS = {"onnx": export_onnx, "exported": export_program}

_SUFFIX = {"onnx": ".onnx", "exported": ".pt2"}


def to_computation(
    module: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    name: str,
    form: str = "onnx",
    labels: dict[str, str] | None = None,
    key: str | None = None,
    columns: dict[str, float] | None = None,
    stem: str | None = None,
) -> Computation:
    """A module as a `Computation` in `folder`; the file is named by its structural key, and then written only once.

    `key` and `columns` are its structure's, where the caller knows them. With a `stem` the file is named so and written
    anew.

    Raises:
        ExportFailed: the module cannot be written in this form.
    """
    if key is None or columns is None:
        key, columns = structure(module, (example,))
    path = folder / f"{stem or key}{_SUFFIX[form]}"
    if stem or not path.is_file():
        _FORMS[form](module, example, path)
    return Computation(
        key=key,
        name=name,
        form=form,
        file=path,
        inputs=(TensorSpec(name="input", shape=tuple(example.shape), dtype=str(example.dtype).removeprefix("torch.")),),
        labels=labels or {},
        columns=columns,
    )
