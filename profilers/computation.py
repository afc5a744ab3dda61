"""A computation: a model file, its inputs and its names, so that a fresh process or another device can run it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from .errors import ProfilerError

FORMS = ("onnx", "exported")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input: its name in the file, its shape with the batch, its type as numpy names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Computation:
    """What a runtime can run.

    Attributes:
        key: the structural hash, given by whoever made the file; computations of one key are equally fast.
        form: "onnx", or "exported" for a `torch.export` program.
        labels: columns for people (operation, family, layer, shapes).
        columns: numbers known without measuring (parameters, macs, operators).

    Raises:
        ProfilerError: an unknown form.
    """

    key: str
    name: str
    form: str
    file: Path
    inputs: tuple[TensorSpec, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ProfilerError(f"Computation {self.name!r} has the form {self.form!r}; expected {' or '.join(FORMS)}.")

    def save(self, path: Path) -> None:
        """Write as JSON beside the model file, which is named relative to it."""
        file = self.file.relative_to(path.parent) if self.file.is_relative_to(path.parent) else self.file.resolve()
        path.write_text(json.dumps({**asdict(self), "file": str(file)}, indent=1))

    @classmethod
    def load(cls, path: Path) -> "Computation":
        content = json.loads(path.read_text())
        inputs = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in content.pop("inputs"))
        return replace(cls(**content, inputs=inputs), file=path.parent / content["file"])


def example_inputs(computation: Computation) -> list[np.ndarray]:
    """Fixed inputs: standard normal floats, zeros for integers."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(spec.shape).astype(spec.dtype)
        if np.issubdtype(np.dtype(spec.dtype), np.floating)
        else np.zeros(spec.shape, spec.dtype)
        for spec in computation.inputs
    ]


def spread(values: Sequence[float]) -> float:
    """The interquartile range as a share of the median."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float((high - low) / middle)
