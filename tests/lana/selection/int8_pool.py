"""The simulated pool with int8 candidates."""

import dataclasses

from tests.lana.selection.simulated_device import LAYERS, make_model

BORDERS = [(f"block{i}", f"block{i + 1}") for i in range(LAYERS - 1)]
CONVERSION_MS = 0.2


def make_int8_model():
    """Four layers, most operations also in int8: at 0.6 of its latency, and a conversion on top."""
    plain = make_model(6.0)
    kept = [one for one in plain.candidates if int(one.layer.name[-1]) < 4 and one.operation != "third"]
    int8 = [
        dataclasses.replace(
            one,
            operation=f"{one.operation}@int8",
            latency_ms=(0.6 * one.latency_ms if one.operation != "identity" else 0.0) + CONVERSION_MS,
            input_conversion_ms=CONVERSION_MS,
            output_conversion_ms=CONVERSION_MS,
        )
        for one in kept
    ]
    scores = {**plain.scores, **{one.pair: plain.scores[one.base] + 0.01 for one in int8}}
    layers = [f"block{i}" for i in range(4)]
    return dataclasses.replace(plain, layers=layers, candidates=[*kept, *int8], scores=scores, borders=BORDERS)
