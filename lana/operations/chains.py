"""Operations of one family that contain one another: the wider one does all that the narrower one does, and more."""

from __future__ import annotations

from lana.operations.families import parse_operation, split_precision

GROWING = ("w", "r", "h", "e", "k")  # an operation grows with the first of these parameters that its family has

Chain = tuple[str, tuple[tuple[str, float], ...]]


def chain_of(operation: str) -> tuple[Chain, float]:
    """Operations of one chain contain one another; the number gives the order.

    >>> chain_of("cb_bottle_k3_w0.5")
    (('cb_bottle', (('k', 3.0),)), 0.5)
    """
    parsed = parse_operation(split_precision(operation)[0])
    growing = next((name for name in GROWING if name in dict(parsed.parameters)), "")
    others = tuple(pair for pair in parsed.parameters if pair[0] != growing)
    return (parsed.family, others), dict(parsed.parameters).get(growing, 0.0)
