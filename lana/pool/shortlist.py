"""The candidates worth training: faster than the teacher's own, about one per step of latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lana.errors import LanaError
from lana.operations.chains import chain_of
from lana.operations.families import FAMILIES
from lana.pool.candidates import Candidate, is_trainable
from lana.runs.time_plan import STEPS_OF_A_SPAN, STEPS_OF_LATENCY

# An operation must be this much faster than the teacher's own to be worth training: the tables' noise.
FASTER_THAN_TEACHER = 0.97


def shortlist(candidates: Sequence[Candidate], *, steps: int = STEPS_OF_LATENCY) -> list[Candidate]:
    """Mark what is worth training: faster than the teacher's own, about one operation per step of latency.

    Where a wider operation of the same kind is no slower (latency is a staircase), the narrower one is left out.

    At a span the teacher's own are its members', one after the other.

    Within a step, operations that start from the teacher's weights come first, then those with more multiply-adds:
    at equal latency they lose least (the paper's section 5 finds larger operations more accurate throughout).

    Raises:
        LanaError: a layer's own operation could not be measured.
    """
    kept: list[Candidate] = []
    own = {candidate.layer.name: candidate for candidate in candidates if candidate.operation == "teacher"}
    for layer in {candidate.layer.name: candidate.layer for candidate in candidates}.values():
        of_layer = [candidate for candidate in candidates if candidate.layer.name == layer.name]
        for member in layer.members:
            if member not in own or not own[member].kept:
                reason = own[member].reason if member in own else "it is not offered"
                raise LanaError(f"The teacher's own operation at {member} could not be measured: {reason}.")
        members = [own[member] for member in layer.members]
        overhead_ms = sum(member.overhead_ms for member in members[1:])  # paid once, whichever operation is there
        limit = FASTER_THAN_TEACHER * (sum(member.latency_ms for member in members) - overhead_ms)
        first = {candidate.key: candidate for candidate in reversed(of_layer)}
        fast = [o for o in of_layer if o.kept and is_trainable(o) and o.latency_ms < limit and first[o.key] is o]
        useful = [
            o for o in fast if not any(_contains(other, o) and other.latency_ms <= o.latency_ms for other in fast)
        ]
        chosen = _one_per_step(useful, limit, steps if len(members) == 1 else min(steps, STEPS_OF_A_SPAN))
        for candidate in of_layer:
            if not candidate.kept or not is_trainable(candidate) or candidate in chosen:
                kept.append(candidate)
            else:
                kept.append(
                    dataclasses.replace(candidate, kept=False, reason=_why_not(candidate, first[candidate.key], limit))
                )
    return kept


def _contains(wider: Candidate, candidate: Candidate) -> bool:
    """True if an operation is a wider one of the same kind."""
    if wider.family != candidate.family:
        return False
    (chain, width), (other, least) = chain_of(wider.operation), chain_of(candidate.operation)
    return chain == other and width > least


def _why_not(candidate: Candidate, first: Candidate, limit_ms: float) -> str:
    if candidate.latency_ms >= limit_ms:
        return "no faster than the teacher's own"
    return (
        "another one of its latency is preferred" if first is candidate else f"has the structure of {first.operation}"
    )


def _one_per_step(candidates: Sequence[Candidate], limit_ms: float, steps: int) -> list[Candidate]:
    """At each step one is kept of each quota: of either kind of start, and of each family with a quota of its own."""
    if not candidates:
        return []
    edges = np.linspace(min(candidate.latency_ms for candidate in candidates) * 0.999, limit_ms, steps + 1)
    best: dict[tuple[int, _Quota], Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.macs, reverse=True):
        best.setdefault((int(np.searchsorted(edges, candidate.latency_ms)), _quota(candidate)), candidate)
    preferred = sorted(best.values(), key=lambda candidate: (not _quota(candidate).derived, candidate.latency_ms))
    shared = [candidate for candidate in preferred if not _quota(candidate).family]
    return shared[:steps] + [candidate for candidate in preferred if _quota(candidate).family]


class _Quota(NamedTuple):
    """Offers of one step and quota compete; `family` names one with its own quota."""

    derived: bool
    family: str


def _quota(candidate: Candidate) -> _Quota:
    family = FAMILIES.get(candidate.family)  # a user's own is not in the table: it starts from nothing
    if family is None:
        return _Quota(derived=False, family="")
    return _Quota(derived=family.derived, family=candidate.family if family.own_quota else "")
