"""The int8 variants of candidates: built, measured, and kept where the table says that they pay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from lana.networks.layers import Layer
from lana.operations.families import at_precision, parse_operation
from lana.pool.builder import Builder
from lana.pool.candidates import Candidate, with_latencies
from profilers.computation import Computation
from profilers.table import LatencyTable

FASTER_THAN_FLOAT = 0.97  # an int8 operation must be this much faster than its own fp32: the tables' noise


def with_int8(
    candidates: Sequence[Candidate],
    builder: Builder,
    measure: Callable[[Sequence[Computation]], LatencyTable],
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> list[Candidate]:
    """The candidates, and the int8 variant of each that is kept.

    A variant is kept where it can be faster than its fp32: between int8 neighbours, half of the conversions at either
    end are left out. A skip has a variant too, which hands an int8 tensor on: its row is the conversion.
    """
    planned = [
        one
        for one in candidates
        if one.kept and (one.is_nothing or one.operation != "identity") and not one.layer.other_shapes
    ]
    variants = []
    for number, one in enumerate(planned):
        on_progress(number / len(planned), one.operation)
        variants.append(builder.candidate(one.layer, parse_operation(at_precision(one.operation, "int8"))))
    conversions = {shape: builder.conversion(shape) for one in variants for shape in shapes_of(one.layer)}
    table = measure(list(builder.computations.values()))
    measured = with_latencies([*candidates, *variants], table)[len(candidates) :]
    overhead_ms = max((one.overhead_ms for one in measured), default=0.0)

    def conversion_ms(shape: tuple[int, ...]) -> float:
        return max(0.0, table.lookup(conversions[shape].key).latency_ms - overhead_ms)

    paying = []
    for plain, variant in zip(planned, measured, strict=True):
        before, after = (conversion_ms(shape) for shape in shapes_of(variant.layer))
        variant = dataclasses.replace(variant, input_conversion_ms=before, output_conversion_ms=after)
        paying.append(_judged(variant, plain))
    return [*candidates, *paying]


def shapes_of(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return layer.input_shape, layer.output_shape


def _judged(variant: Candidate, plain: Candidate) -> Candidate:
    """The variant, no longer kept where it cannot be faster than its fp32 even between int8 neighbours."""
    if not variant.kept or plain.operation == "identity":
        return variant
    inside_ms = variant.latency_ms - (variant.input_conversion_ms + variant.output_conversion_ms) / 2
    if inside_ms < FASTER_THAN_FLOAT * plain.latency_ms:
        return variant
    return dataclasses.replace(variant, kept=False, reason="int8 is no faster than fp32")
