"""Families measured in ascending width, each no further than to where it is clearly slower than the teacher's own.

What contains a clearly slower operation is slower still and would never be chosen: in a large pool, that is most of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lana.errors import LanaError
from lana.operations import parse_operation
from profilers.computation import Computation
from profilers.table import LatencyTable, Row

if TYPE_CHECKING:
    from lana.profiling import Offer

GROWING = ("w", "e", "k")  # an operation grows with the first of these parameters that its family has
CLEARLY = 1.1  # times the teacher's own, beyond the intervals of both

Chain = tuple[str, tuple[tuple[str, float], ...]]


def chain_of(operation: str) -> tuple[Chain, float]:
    """Operations of one chain contain one another; the number says in which order.

    >>> chain_of("cb_bottle_k3_w0.5")
    (('cb_bottle', (('k', 3.0),)), 0.5)
    """
    parsed = parse_operation(operation)
    growing = next((name for name in GROWING if name in dict(parsed.parameters)), "")
    others = tuple(pair for pair in parsed.parameters if pair[0] != growing)
    return (parsed.family, others), dict(parsed.parameters).get(growing, 0.0)


def waves(offers: Sequence[Offer]) -> list[list[Offer]]:
    """The narrowest of each chain at each layer, then the next ones, and so on."""
    chains: dict[tuple[str, Chain], list[tuple[float, Offer]]] = {}
    for offer in offers:
        if offer.kept:
            chain, width = chain_of(offer.operation)
            chains.setdefault((offer.layer.name, chain), []).append((width, offer))
    ordered = [[offer for _, offer in sorted(chain, key=lambda pair: pair[0])] for chain in chains.values()]
    longest = max(map(len, ordered), default=0)
    return [[chain[rank] for chain in ordered if rank < len(chain)] for rank in range(longest)]


def measure_ascending(
    offers: Sequence[Offer],
    computations: Sequence[Computation],
    measure: Callable[[Sequence[Computation]], LatencyTable],
) -> tuple[list[Offer], LatencyTable]:
    """Measure wave after wave; offers that need no figure any more are not kept, with the reason.

    `measure` measures what its table lacks of some computations and returns the whole of it.
    """
    by_key = {computation.key: computation for computation in computations}
    own = {offer.layer.name: offer.key for offer in offers if offer.operation == "teacher"}
    stopped: dict[tuple[str, Chain], str] = {}
    table: LatencyTable | None = None
    for wave in waves(offers):
        open_ = [offer for offer in wave if (offer.layer.name, chain_of(offer.operation)[0]) not in stopped]
        if not open_:
            break
        table = measure([by_key[key] for key in dict.fromkeys(offer.key for offer in open_)])
        for offer in open_:
            teacher = [own[member] for member in offer.layer.members if member in own]
            rows = [table.lookup(key) for key in teacher if key in table]
            if len(rows) == len(offer.layer.members) and clearly_slower(table.lookup(offer.key), rows):
                why = f"wider than {offer.operation}, which is clearly slower than the teacher's own"
                stopped[offer.layer.name, chain_of(offer.operation)[0]] = why
    if table is None:
        raise LanaError(f"No operation could be built: {offers[0].reason if offers else 'none is offered'}.")
    return [
        offer
        if not offer.kept or offer.key in table
        else dataclasses.replace(offer, kept=False, reason=stopped[offer.layer.name, chain_of(offer.operation)[0]])
        for offer in offers
    ], table


def clearly_slower(row: Row, teacher: Sequence[Row]) -> bool:
    """Whether an operation is slower than the teacher's own of the layers it covers, whatever the noise was."""
    own_ms = sum(one.latency_ms * (1 + one.interval) for one in teacher)
    least_ms = row.latency_ms * (1 - row.interval)
    return math.isfinite(least_ms) and least_ms > CLEARLY * own_ms
