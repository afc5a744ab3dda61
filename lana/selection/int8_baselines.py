"""A user's choices without the program: all of the teacher in int8, or structure first and int8 afterwards."""

from __future__ import annotations

import dataclasses

from lana.models.selection import Selection
from lana.operations.families import at_precision
from lana.selection.program import SelectionModel

STEPS = 12  # of the bisection over the budget of the fp32 student


def offers_int8(model: SelectionModel) -> bool:
    return any(candidate.precision == "int8" for candidate in model.candidates)


def quantized(model: SelectionModel, selection: Selection) -> Selection:
    """The selection with every operation in int8 that has such a candidate, skips between two of them included."""
    parts = {part.layer.name: at_precision(part.operation, "int8") for part in model.parts(selection)}
    known = {candidate.pair for candidate in model.candidates}
    return Selection({**selection, **{layer: name for layer, name in parts.items() if (layer, name) in known}})


def fp32_only(model: SelectionModel) -> SelectionModel:
    """The model without int8 candidates."""
    return dataclasses.replace(model, candidates=[one for one in model.candidates if one.precision == "fp32"])


def structure_then_int8(model: SelectionModel, budget_ms: float) -> Selection | None:
    """The fp32 student of the highest budget that is within `budget_ms` once all of it is int8; None where none is."""
    plain, best = fp32_only(model), None
    low_ms, high_ms = plain.predicted_ms(plain.fastest()), plain.predicted_ms(Selection())
    for _ in range(STEPS):
        between_ms = (low_ms + high_ms) / 2
        found = plain.solve(between_ms)
        made = quantized(model, found) if found is not None else None
        if made is not None and model.predicted_ms(made) <= budget_ms:
            best, low_ms = made, between_ms
        elif made is None:
            low_ms = between_ms
        else:
            high_ms = between_ms
    return best


def int8_baselines(model: SelectionModel, budget_ms: float) -> list[Selection]:
    """The baselines within a predicted budget: the search measures them beside the program's choices."""
    if not offers_int8(model):
        return []
    found = [quantized(model, Selection()), structure_then_int8(model, budget_ms)]
    return [one for one in found if one and model.allows(one) and model.predicted_ms(one) <= budget_ms]
