"""Which operations a layer is offered, and why it is not offered the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lana.models.student import own_module
from lana.models.teacher import Teacher
from lana.networks.layers import LayerScan
from lana.operations.presets import reasons
from lana.operations.pruning import why_not_pruned


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A family at a layer or span: its operations that are offered there, and the reason for each that is not."""

    layer: str
    family: str
    offered: tuple[str, ...]
    refused: Mapping[str, str]


def explain(teacher: Teacher, scan: LayerScan, pool: str) -> list[Explanation]:
    """The families of a pool at every layer and span.

    Raises:
        UserError: an unknown pool.
    """
    explanations = []
    for layer in (*scan.layers, *scan.spans):
        by_operation = reasons(layer, own_module(teacher.module, layer), pool)
        for family in dict.fromkeys(operation.family for operation in by_operation):
            own = {operation.name: reason for operation, reason in by_operation.items() if operation.family == family}
            explanations.append(
                Explanation(
                    layer=layer.name,
                    family=family,
                    offered=tuple(name for name, reason in own.items() if not reason),
                    refused={name: reason for name, reason in own.items() if reason},
                )
            )
    return explanations


def without_pruned(teacher: Teacher, scan: LayerScan) -> dict[str, str]:
    """The layers that are offered no pruned operation, and why; those inside a span that is offered some say so."""
    inside = {
        member
        for span in scan.spans
        if not why_not_pruned(span, own_module(teacher.module, span))
        for member in span.members
    }
    found = {layer.name: why_not_pruned(layer, own_module(teacher.module, layer)) for layer in scan.layers}
    return {
        name: f"{reason}; spans with its neighbours are pruned" if name in inside else reason
        for name, reason in found.items()
        if reason
    }
