"""Families measured in ascending width, each until it is clearly slower than the teacher's own operation.

An operation that contains a clearly slower one is slower still and would never be chosen. Most of a large pool is such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lana.errors import LanaError
from lana.models.selection import Pair
from lana.networks.layers import Layer
from lana.operations.chains import Chain, chain_of
from lana.operations.families import Operation
from lana.pool.candidates import Candidate, Planned, not_built
from profilers.table import LatencyTable, Row

CLEARLY = 1.1  # times the teacher's own, beyond the intervals of both


def waves(planned: Sequence[Planned]) -> list[list[Planned]]:
    """The narrowest of each chain at each layer, then the next ones, and so on."""
    chains: dict[tuple[str, Chain], list[tuple[float, Planned]]] = {}
    for layer, operation in planned:
        chain, width = chain_of(operation.name)
        chains.setdefault((layer.name, chain), []).append((width, (layer, operation)))
    ordered = [[one for _, one in sorted(chain, key=lambda pair: pair[0])] for chain in chains.values()]
    longest = max(map(len, ordered), default=0)
    return [[chain[rank] for chain in ordered if rank < len(chain)] for rank in range(longest)]


def measure_ascending(
    planned: Sequence[Planned],
    build: Callable[[Layer, Operation], Candidate],
    measure: Callable[[Sequence[Candidate]], LatencyTable],
) -> tuple[list[Candidate], LatencyTable]:
    """Build and measure wave after wave; a candidate that needs no figure any more is not kept, with the reason.

    `measure` measures what its table lacks of some candidates and returns the whole of it.

    Raises:
        LanaError: not one could be built.
    """
    candidates: dict[Pair, Candidate] = {}
    stopped: dict[tuple[str, Chain], str] = {}
    table: LatencyTable | None = None
    for wave in waves(planned):
        built: list[tuple[tuple[str, Chain], Candidate]] = []
        for layer, operation in wave:
            chain = (layer.name, chain_of(operation.name)[0])
            left_out = chain in stopped
            candidate = not_built(layer, operation, stopped[chain]) if left_out else build(layer, operation)
            candidates[candidate.pair] = candidate
            if candidate.kept:
                built.append((chain, candidate))
        if not built:
            continue
        table = measure([candidate for _, candidate in built])
        for chain, candidate in built:
            teacher = [candidates.get((member, "teacher")) for member in candidate.layer.members]
            rows = [table.lookup(own.key) for own in teacher if own is not None and own.kept]
            if len(rows) == len(teacher) and clearly_slower(table.lookup(candidate.key), rows):
                stopped[chain] = f"wider than {candidate.operation}, which is clearly slower than the teacher's own"
    if table is None:
        raise LanaError(
            f"No operation could be built: {next(iter(candidates.values())).reason if candidates else 'none given'}."
        )
    return [candidates[layer.name, operation.name] for layer, operation in planned], table


def clearly_slower(row: Row, teacher: Sequence[Row]) -> bool:
    """True if an operation is slower than the teacher's own of the layers it covers, whatever the noise was."""
    own_ms = sum(one.latency_ms * (1 + one.interval) for one in teacher)
    least_ms = row.latency_ms * (1 - row.interval)
    return math.isfinite(least_ms) and least_ms > CLEARLY * own_ms
