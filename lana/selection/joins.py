"""Borders between int8 neighbours, where the conversion in the rows of both does not happen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lana.pool.candidates import Candidate
from lana.selection.latency_model import Prediction
from solvers import Credit


@dataclass(frozen=True, kw_only=True)
class Saving:
    """The saving where one of the producers feeds one of the consumers, as columns of the prediction below zero."""

    name: str
    producers: tuple[Candidate, ...]
    consumers: tuple[Candidate, ...]
    columns: dict[str, float]


def savings(candidates: Sequence[Candidate], borders: Sequence[tuple[str, str]]) -> list[Saving]:
    """The savings that are possible between these candidates.

    Between the candidates of a selection they are those that it has.
    """
    int8 = [candidate for candidate in candidates if candidate.precision == "int8"]
    found = []
    for before, after in borders:
        producers = tuple(one for one in int8 if one.layer.members[-1] == before)
        consumers = tuple(one for one in int8 if one.layer.members[0] == after)
        if producers and consumers:
            shapes = producers[0].layer.output_shape, consumers[0].layer.input_shape
            numbers = float(sum(math.prod(shape) for shape in shapes))
            converted_ms = (producers[0].output_conversion_ms + consumers[0].input_conversion_ms) / 2
            columns = {"latency_ms": -converted_ms, "mixed_border": -numbers}
            found.append(Saving(name=f"{before} to {after}", producers=producers, consumers=consumers, columns=columns))
    return found


def credits(
    candidates: Sequence[Candidate], borders: Sequence[tuple[str, str]], prediction: Prediction
) -> tuple[Credit, ...]:
    """The savings as terms of the integer program, in predicted milliseconds."""
    position = {candidate.pair: index for index, candidate in enumerate(candidates)}
    return tuple(
        Credit(
            producers=tuple(position[one.pair] for one in saving.producers),
            consumers=tuple(position[one.pair] for one in saving.consumers),
            amounts={"latency_ms": max(0.0, -prediction.change_ms(saving.columns))},
            name=saving.name,
        )
        for saving in savings(candidates, borders)
    )
