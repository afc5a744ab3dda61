"""A candidate: an operation at a layer, its columns, its latency, and whether it is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lana.common.files import explain_damage, read_json, read_records, write_json, write_records
from lana.errors import UserError
from lana.models.selection import Pair
from lana.models.student import own_module
from lana.models.teacher import Teacher
from lana.networks.layers import Layer, LayerScan
from lana.operations.families import Operation, split_precision
from lana.operations.presets import offered
from profilers.table import LatencyTable

NODE_BYTES = 400  # of an operator in an ONNX file, with the names of its weights


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An operation at a layer: its structure, its measured speed, and whether it is kept for selection.

    `reason` explains why it is not kept. `latency_ms` (caches warm) and `cold_ms` are nan until measured. `overhead_ms`
    is the time to start a runtime on nothing at all; a whole network pays it once and not at every layer. An int8
    operation's latency includes conversions at its ends; `input_conversion_ms` and `output_conversion_ms` are those of
    its input and its output, there and back.
    """

    layer: Layer
    operation: str
    family: str
    key: str
    parameters: float
    macs: float
    operators: float
    activations: float
    latency_ms: float = float("nan")
    cold_ms: float = float("nan")
    overhead_ms: float = 0.0
    input_conversion_ms: float = 0.0
    output_conversion_ms: float = 0.0
    kept: bool = True
    reason: str = ""

    @property
    def pair(self) -> Pair:
        return self.layer.name, self.operation

    @property
    def file_bytes(self) -> float:
        """Its bytes in a file: the weights, and the nodes of the graph with their names."""
        return (1 if self.precision == "int8" else 4) * self.parameters + NODE_BYTES * self.operators

    @property
    def is_nothing(self) -> bool:
        """True for an identity that costs nothing; one that keeps a permutation does."""
        return self.operation == "identity" and not self.operators

    @property
    def base(self) -> Pair:
        """The pair of the same operation at fp32, whose weights it has."""
        return self.layer.name, split_precision(self.operation)[0]

    @property
    def precision(self) -> str:
        return split_precision(self.operation)[1]

    @property
    def columns(self) -> dict[str, float]:
        """The columns that the prediction of a whole network reads."""
        cold_ms = self.cold_ms - self.latency_ms
        nothing = self.base[1] == "identity" and not self.operators
        numbers = float(math.prod(self.layer.input_shape) + math.prod(self.layer.output_shape))
        return {
            "latency_ms": self.latency_ms - self.overhead_ms,
            "cold_ms": 0.0 if nothing or not cold_ms > 0 else cold_ms,
            "operations": 0.0 if nothing else 1.0,
            "macs": self.macs,
            "activations": self.activations,
            "border": 0.0 if nothing else numbers,
            "mixed_border": numbers if self.precision == "int8" else 0.0,
        }


Planned = tuple[Layer, Operation]


def planned_candidates(teacher: Teacher, scan: LayerScan, pool: str) -> list[Planned]:
    """The operations that a pool offers at each layer and span."""
    places = [*scan.layers, *scan.spans]
    return [(layer, one) for layer in places for one in offered(layer, own_module(teacher.module, layer), pool)]


def not_built(layer: Layer, operation: Operation, reason: str) -> Candidate:
    """A candidate that is not kept, of which nothing is known."""
    nothing = {"parameters": 0.0, "macs": 0.0, "operators": 0.0, "activations": 0.0}
    return Candidate(
        layer=layer, operation=operation.name, family=operation.family, key="", **nothing, kept=False, reason=reason
    )


def with_latencies(candidates: Sequence[Candidate], table: LatencyTable) -> list[Candidate]:
    """The candidates with their measured milliseconds; a row with an error makes a candidate that is not kept.

    The overhead is that of the fastest identity; an identity in a network costs nothing beyond it.
    """
    filled = []
    empty = [table.lookup(o.key).latency_ms for o in candidates if o.is_nothing and o.kept]
    overhead_ms = min((ms for ms in empty if ms == ms), default=0.0)
    for candidate in candidates:
        if not candidate.kept:
            filled.append(candidate)
            continue
        row = table.lookup(candidate.key)
        if row.error:
            filled.append(dataclasses.replace(candidate, kept=False, reason=f"does not run: {row.error[:150]}"))
        else:
            spent_ms = row.latency_ms if candidate.is_nothing else overhead_ms
            own_ms = min(spent_ms, row.latency_ms)
            filled.append(
                dataclasses.replace(candidate, latency_ms=row.latency_ms, cold_ms=row.cold_ms, overhead_ms=own_ms)
            )
    return filled


def unique_layers(candidates: Sequence[Candidate]) -> list[Layer]:
    """The layers and spans of candidates, each once."""
    return list({candidate.layer.name: candidate.layer for candidate in candidates}.values())


def is_trainable(candidate: Candidate) -> bool:
    return is_trained(candidate.operation)


def is_trained(operation: str) -> bool:
    """True if an operation has weights of its own to train; an int8 one has those of its fp32."""
    return operation not in ("teacher", "identity") and split_precision(operation)[1] == "fp32"


def write_candidates(path: Path, candidates: Sequence[Candidate]) -> None:
    """The pool as CSV: one row a candidate, layers by name."""
    rows = [{**vars(candidate), "layer": candidate.layer.name} for candidate in candidates]
    layers = {candidate.layer.name: dataclasses.asdict(candidate.layer) for candidate in candidates}
    write_json(path.with_name("layers.json"), layers)
    write_records(path, rows)


def read_candidates(path: Path) -> list[Candidate]:
    """The pool that a run holds.

    Raises:
        UserError: another version of lana wrote it.
    """
    place = path.with_name("layers.json")
    described, rows = read_json(place), read_records(path, Candidate, missing=("latency_ms", "cold_ms"))
    with explain_damage(place):
        layers = {name: Layer.from_json(fields) for name, fields in described.items()}
    expected = {field.name for field in dataclasses.fields(Candidate)}
    if unlike := sorted(expected ^ {name for row in rows for name in row}):
        raise UserError(
            f"{path} was written by another version of lana: it differs in {', '.join(unlike)[:200]}. "
            "Make the run again with `lana compress` and another --out."
        )
    with explain_damage(path):
        return [Candidate(**{**row, "layer": layers[row["layer"]]}) for row in rows]


def pairs(candidates: Sequence[Candidate], *, trainable_only: bool = False) -> list[tuple[Layer, str]]:
    """(layer, operation) of the candidates that are kept."""
    return [(o.layer, o.operation) for o in candidates if o.kept and (is_trainable(o) or not trainable_only)]
