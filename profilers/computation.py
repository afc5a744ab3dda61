"""A computation to measure: a file that a runtime runs, with its inputs and the names that people know it by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from profilers.errors import ProfilerError
from profilers.formats import SUFFIXES, current_name


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input: its name in the file, its shape with the batch, its type as numpy names it.

    >>> TensorSpec(name="input", shape=(1, 3, 224, 224), dtype="float32").shape
    (1, 3, 224, 224)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if not all(isinstance(size, int) and size >= 0 for size in self.shape):
            raise ProfilerError(f"Input {self.name!r} has shape {self.shape}: expected sizes known in advance.")

    def sample(self, generator: np.random.Generator) -> np.ndarray:
        """Standard-normal numbers; zeros for integers and booleans, the one value that is an index everywhere."""
        if np.issubdtype(np.dtype(self.dtype), np.floating):
            return generator.standard_normal(self.shape).astype(self.dtype)
        return np.zeros(self.shape, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class Computation:
    """A computation as a file, so that a fresh process, or a device with nothing of ours, can run it.

    Attributes:
        key: a hash of what decides its speed, given by the caller.
        name: for people.
        format: a name of `profilers.formats`.
        file: absolute, or relative to the JSON it is stored in.
        labels: for people, by column of the table: operation, family, layer, input_shape, output_shape.
        columns: additive numbers known without measuring: parameters, weight_bytes, macs, operators, and others.
        beside: files that go with it, relative to its folder: weights that an ONNX file keeps outside.
        precision: of the numbers that the file computes with; inputs and outputs may have another.
    """

    key: str
    name: str
    format: str
    file: Path
    inputs: tuple[TensorSpec, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, float] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not self.key or not self.key.isalnum():
            raise ProfilerError(f"Key {self.key!r} of {self.name!r}: expected letters and digits.")
        if self.format not in SUFFIXES:
            raise ProfilerError(f"Format {self.format!r} of {self.name!r}: expected one of {', '.join(SUFFIXES)}.")

    def samples(self) -> list[np.ndarray]:
        """The fixed inputs that it is timed on."""
        generator = np.random.default_rng(0)
        return [spec.sample(generator) for spec in self.inputs]

    @property
    def exporter(self) -> str:
        """The exporter that wrote an ONNX file, as "pytorch 2.13.0"; empty where the file does not name it.

        The build ("+cpu") is left out: only one of PyTorch's two exporters writes it, and a table may need both.
        """
        if self.format != "onnx" or not self.file.is_file():
            return ""
        with self.file.open("rb") as file:
            return _onnx_producer(file.read(512)).partition("+")[0]

    def save(self, path: Path | str) -> None:
        """Write this as JSON; the file is named relative to it where it lies in the same folder or below."""
        path = Path(path)
        path.write_text(json.dumps(self.to_json(path.parent), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Computation:
        """Read what `save` wrote; `file` is absolute then."""
        path = Path(path)
        return cls.from_json(json.loads(path.read_text()), path.parent)

    def to_json(self, folder: Path) -> dict[str, Any]:
        file, folder = self.file.absolute(), folder.absolute()
        inside = folder in file.parents
        return {
            "key": self.key,
            "name": self.name,
            "format": self.format,
            "file": file.relative_to(folder).as_posix() if inside else str(file),
            "inputs": [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype} for s in self.inputs],
            "labels": dict(self.labels),
            "columns": dict(self.columns),
            "beside": list(self.beside),
            "precision": self.precision,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], folder: Path) -> Computation:
        inputs = tuple(
            TensorSpec(name=spec["name"], shape=tuple(spec["shape"]), dtype=spec["dtype"]) for spec in fields["inputs"]
        )
        file = Path(os.path.normpath(folder.absolute() / fields["file"]))
        beside, rest = tuple(fields.get("beside", ())), {name: fields[name] for name in fields if name != "form"}
        format = current_name(fields.get("format") or fields["form"])  # "form" before the formats had one name each
        return cls(**{**rest, "format": format, "file": file, "inputs": inputs, "beside": beside})

    @classmethod
    def from_onnx(cls, path: Path | str, *, batch: int = 1) -> Computation:
        """Any ONNX file; sizes that it leaves open in front are the batch. Needs the package `onnx`.

        Raises:
            ProfilerError: the file is no ONNX file, or leaves other sizes open.
        """
        import onnx
        from google.protobuf.message import DecodeError
        from onnx.external_data_helper import ExternalDataInfo, uses_external_data

        path = Path(path)
        try:
            graph = onnx.load(str(path), load_external_data=False).graph
        except (OSError, ValueError, DecodeError) as error:
            raise ProfilerError(f"{path} cannot be read as ONNX: {error}") from error
        weights = {weight.name for weight in graph.initializer}
        outside = {ExternalDataInfo(weight).location for weight in graph.initializer if uses_external_data(weight)}
        specs = []
        for value in graph.input:
            if value.name in weights:
                continue
            tensor = value.type.tensor_type
            sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
            if sizes and sizes[0] <= 0:
                sizes[0] = batch
            if any(size <= 0 for size in sizes):
                raise ProfilerError(
                    f"Input {value.name!r} of {path} leaves sizes open in addition to the batch: {sizes}. "
                    "Export it with fixed sizes."
                )
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
            specs.append(TensorSpec(name=value.name, shape=tuple(sizes), dtype=dtype))
        half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
        return cls(
            key=hashlib.sha256(path.read_bytes()).hexdigest()[:32],
            name=path.stem,
            format="onnx",
            file=path.absolute(),
            inputs=tuple(specs),
            beside=tuple(sorted(outside)),
            precision="fp16" if half else "fp32",
        )


def _onnx_producer(head: bytes) -> str:
    """Fields 2 and 3 of a serialised ModelProto, which come among its first bytes: no ONNX package is needed.

    >>> _onnx_producer(bytes([0x08, 8, 0x12, 2]) + b"me" + bytes([0x1A, 1]) + b"1" + bytes([0x3A, 99]))
    'me 1'
    """
    fields, position = {}, 0
    while position < len(head) - 1 and head[position] in (0x08, 0x12, 0x1A):
        tag, size = head[position], head[position + 1]
        position += 2
        if tag != 0x08:
            fields[tag] = head[position : position + size].decode(errors="replace")
            position += size
    return " ".join(fields.values())
