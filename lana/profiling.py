"""Which operations stand to choose from at each layer, how fast each is here, and which are worth training.

Latency does not depend on what the weights are, so it is measured first: what is no faster than the teacher's own
need not be trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lana.errors import LanaError, UserError
from lana.export import ExportFailed, to_computation
from lana.layers import Layer, LayerScan
from lana.operations import FAMILIES, Operation, offered
from lana.operations.chains import chain_of
from lana.run import write
from lana.structure import structure, structure_key
from lana.student import layer_from_json, own_module
from lana.teacher import Teacher
from profilers.computation import Computation
from profilers.table import LatencyTable

# An operation must be this much faster than the teacher's own to be worth training: the tables' noise.
FASTER_THAN_TEACHER = 0.97
STEPS_OF_LATENCY = 8  # operations trained a layer, about one per step (the paper: 2 a layer 79.40, 10 a layer 79.66)
STEPS_OF_A_SPAN = 4  # its members have operations of their own to go finer with


@dataclass(frozen=True, kw_only=True)
class Offer:
    """An operation at a layer: its structure, what is known of its speed, and whether it is kept for selection.

    `reason` says why it is not kept. `latency_ms` (caches warm) and `cold_ms` are nan until measured; `overhead_ms` of
    each is what starting a runtime on nothing at all takes, which a whole network pays once and not at every layer.
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
    kept: bool = True
    reason: str = ""

    @property
    def columns(self) -> dict[str, float]:
        """What the prediction of a whole network reads."""
        cold_ms = self.cold_ms - self.latency_ms
        nothing = self.operation == "identity"
        return {
            "latency_ms": self.latency_ms - self.overhead_ms,
            "cold_ms": 0.0 if nothing or not cold_ms > 0 else cold_ms,
            "operations": 0.0 if nothing else 1.0,
            "macs": self.macs,
            "activations": self.activations,
            "border": 0.0 if nothing else float(math.prod(self.layer.input_shape) + math.prod(self.layer.output_shape)),
        }


class Builder:
    """Builds operations where they stand and writes their computations, once a structure; nothing is measured.

    An operation that cannot be built or exported is an offer that is not kept, with the reason.
    """

    def __init__(self, teacher: Teacher, *, batch: int, folder: Path, form: str = "onnx") -> None:
        self.teacher, self.batch, self.folder, self.form = teacher.module, batch, folder, form
        self.computations: dict[str, Computation] = {}
        self._structures: dict[str, str] = {}
        self._known: dict[tuple[str, tuple[int, ...], str], Offer] = {}

    def offer(self, layer: Layer, operation: Operation) -> Offer:
        example = torch.randn(self.batch, *layer.input_shape, generator=torch.Generator().manual_seed(0))
        if layer.name not in self._structures:
            self._structures[layer.name] = structure_key(own_module(self.teacher, layer), (example,))
        place = (self._structures[layer.name], layer.output_shape, operation.name)
        if place not in self._known:
            self._known[place] = self._built(layer, operation, example)
        return dataclasses.replace(self._known[place], layer=layer)

    def _built(self, layer: Layer, operation: Operation, example: torch.Tensor) -> Offer:
        try:
            own = own_module(self.teacher, layer)
            module = own if operation.name == "teacher" else operation.build(layer, own)
            key, columns = structure(module, (example,))
        except UserError:
            raise
        except Exception as error:  # one operation that fails at one layer must not end the run: it is named instead
            reason = f"cannot be built: {type(error).__name__}: {str(error)[:150]}"
            return not_built(layer, operation, reason)
        offer = Offer(
            layer=layer,
            operation=operation.name,
            family=operation.family,
            key=key,
            parameters=columns["parameters"],
            macs=columns["macs"],
            operators=columns["operators"],
            activations=columns["activations"],
        )
        shapes = [" ".join(str(size) for size in shape) for shape in (layer.input_shape, layer.output_shape)]
        labels = {
            "operation": operation.name,
            "family": operation.family,
            "layer": layer.name,
            "input_shape": shapes[0],
            "output_shape": shapes[1],
        }
        try:
            computation = to_computation(
                module,
                example,
                self.folder,
                name=f"{operation.name} ({shapes[0]})",
                form=self.form,
                labels=labels,
                key=key,
                columns=columns,
            )
        except ExportFailed as error:
            return dataclasses.replace(offer, kept=False, reason=str(error))
        self.computations.setdefault(key, computation)
        return offer


Planned = tuple[Layer, Operation]


def planned_offers(teacher: Teacher, scan: LayerScan, pool: str) -> list[Planned]:
    """What a pool offers at each layer and span."""
    places = [*scan.layers, *scan.spans]
    return [(layer, one) for layer in places for one in offered(layer, own_module(teacher.module, layer), pool)]


def make_offers(
    teacher: Teacher,
    scan: LayerScan,
    pool: str,
    *,
    batch: int,
    folder: Path,
    form: str = "onnx",
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> tuple[list[Offer], list[Computation]]:
    """All that a pool offers, built and written."""
    builder, offers = Builder(teacher, batch=batch, folder=folder, form=form), []
    planned = planned_offers(teacher, scan, pool)
    for layer, operation in planned:
        offers.append(builder.offer(layer, operation))
        on_progress(len(offers) / len(planned), layer.name)
    return offers, list(builder.computations.values())


def not_built(layer: Layer, operation: Operation, reason: str) -> Offer:
    """An offer that is not kept, of which nothing is known."""
    nothing = {"parameters": 0.0, "macs": 0.0, "operators": 0.0, "activations": 0.0}
    return Offer(
        layer=layer, operation=operation.name, family=operation.family, key="", **nothing, kept=False, reason=reason
    )


def with_latencies(offers: Sequence[Offer], table: LatencyTable) -> list[Offer]:
    """The offers with their measured milliseconds; a row with an error makes an offer that is not kept.

    The overhead is that of the fastest identity; an identity in a network costs nothing beyond it.
    """
    filled = []
    empty = [table.lookup(o.key).latency_ms for o in offers if o.operation == "identity" and o.kept]
    overhead_ms = min((ms for ms in empty if ms == ms), default=0.0)
    for offer in offers:
        if not offer.kept:
            filled.append(offer)
            continue
        row = table.lookup(offer.key)
        if row.error:
            filled.append(dataclasses.replace(offer, kept=False, reason=f"does not run: {row.error[:150]}"))
        else:
            spent_ms = row.latency_ms if offer.operation == "identity" else overhead_ms
            own_ms = min(spent_ms, row.latency_ms)
            filled.append(
                dataclasses.replace(offer, latency_ms=row.latency_ms, cold_ms=row.cold_ms, overhead_ms=own_ms)
            )
    return filled


def keep_promising(offers: Sequence[Offer], *, steps: int = STEPS_OF_LATENCY) -> list[Offer]:
    """Mark what is worth training: faster than the teacher's own, about one operation per step of latency.

    Where a wider operation of the same kind is no slower (latency is a staircase), the narrower one is left out.

    At a span the teacher's own are its members', one after the other.

    Within a step, operations that start from the teacher's weights come first, then those with more multiply-adds:
    at equal latency they lose least (the paper's section 5 finds larger operations more accurate throughout).

    Raises:
        LanaError: a layer's own operation could not be measured.
    """
    kept: list[Offer] = []
    own = {offer.layer.name: offer for offer in offers if offer.operation == "teacher"}
    for layer in {offer.layer.name: offer.layer for offer in offers}.values():
        here = [offer for offer in offers if offer.layer.name == layer.name]
        for member in layer.members:
            if member not in own or not own[member].kept:
                reason = own[member].reason if member in own else "it is not offered"
                raise LanaError(f"The teacher's own operation at {member} could not be measured: {reason}.")
        members = [own[member] for member in layer.members]
        overhead_ms = sum(member.overhead_ms for member in members[1:])  # paid once, whatever stands there
        limit = FASTER_THAN_TEACHER * (sum(member.latency_ms for member in members) - overhead_ms)
        first = {offer.key: offer for offer in reversed(here)}
        fast = [o for o in here if o.kept and _trainable(o) and o.latency_ms < limit and first[o.key] is o]
        useful = [
            o for o in fast if not any(_contains(other, o) and other.latency_ms <= o.latency_ms for other in fast)
        ]
        chosen = _one_per_step(useful, limit, steps if len(members) == 1 else min(steps, STEPS_OF_A_SPAN))
        for offer in here:
            if not offer.kept or not _trainable(offer) or offer in chosen:
                kept.append(offer)
            else:
                kept.append(dataclasses.replace(offer, kept=False, reason=_why_not(offer, first[offer.key], limit)))
    return kept


def _contains(wider: Offer, offer: Offer) -> bool:
    """Whether an operation is a wider one of the same kind."""
    if wider.family != offer.family:
        return False
    (chain, width), (other, least) = chain_of(wider.operation), chain_of(offer.operation)
    return chain == other and width > least


def _why_not(offer: Offer, first: Offer, limit_ms: float) -> str:
    if offer.latency_ms >= limit_ms:
        return "no faster than the teacher's own"
    return "another one of its latency is preferred" if first is offer else f"has the structure of {first.operation}"


def _trainable(offer: Offer) -> bool:
    return offer.operation not in ("teacher", "identity")


def _one_per_step(offers: Sequence[Offer], limit_ms: float, steps: int) -> list[Offer]:
    """At each step the two kinds of start (the teacher's weights, nothing) may keep one each; so may a family apart."""
    if not offers:
        return []
    edges = np.linspace(min(offer.latency_ms for offer in offers) * 0.999, limit_ms, steps + 1)
    best: dict[tuple[int, bool, str], Offer] = {}
    for offer in sorted(offers, key=lambda offer: offer.macs, reverse=True):
        step, apart = int(np.searchsorted(edges, offer.latency_ms)), _stands_apart(offer)
        best.setdefault((step, _starts_good(offer), offer.family if apart else ""), offer)
    preferred = sorted(best.values(), key=lambda offer: (not _starts_good(offer), offer.latency_ms))
    together = [offer for offer in preferred if not _stands_apart(offer)]
    return together[:steps] + [offer for offer in preferred if _stands_apart(offer)]


def _starts_good(offer: Offer) -> bool:
    return offer.family in FAMILIES and FAMILIES[offer.family].derived


def _stands_apart(offer: Offer) -> bool:
    return offer.family in FAMILIES and FAMILIES[offer.family].apart


def write_offers(path: Path, offers: Sequence[Offer]) -> None:
    """The pool as CSV: one row an offer, layers by name."""
    import pandas as pd

    rows = [{**vars(offer), "layer": offer.layer.name} for offer in offers]
    layers = {offer.layer.name: dataclasses.asdict(offer.layer) for offer in offers}
    write(path, lambda beside: pd.DataFrame(rows).to_csv(beside, index=False))
    write(path.with_name("layers.json"), lambda beside: beside.write_text(json.dumps(layers, indent=1)))


def read_offers(path: Path) -> list[Offer]:
    """The pool that a run holds.

    Raises:
        UserError: another version of lana wrote it.
    """
    import pandas as pd

    layers = {
        name: layer_from_json(fields) for name, fields in json.loads(path.with_name("layers.json").read_text()).items()
    }
    text = dict.fromkeys(("layer", "operation", "family", "key", "reason"), str)  # a layer may be called "0"
    frame = pd.read_csv(
        path, keep_default_na=False, na_values={name: ["", "nan"] for name in ("latency_ms", "cold_ms")}, dtype=text
    )
    expected = {field.name for field in dataclasses.fields(Offer)}
    if unlike := sorted(expected ^ set(frame.columns)):
        raise UserError(
            f"{path} was written by another version of lana: it differs in {', '.join(unlike)}. "
            "Make the run again with `lana compress` and another --out."
        )
    rows = frame.to_dict("records")
    return [Offer(**{**row, "layer": layers[row["layer"]]}) for row in rows]  # type: ignore[arg-type]


def pairs(offers: Sequence[Offer], *, trainable_only: bool = False) -> list[tuple[Layer, str]]:
    """(layer, operation) of the offers that are kept."""
    return [(o.layer, o.operation) for o in offers if o.kept and (_trainable(o) or not trainable_only)]
