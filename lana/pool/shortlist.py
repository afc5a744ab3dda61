"""The candidates worth training: faster than the teacher's own, about one per step of latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lana.errors import LanaError
from lana.operations.chains import chain_of
from lana.operations.families import FAMILIES
from lana.pool.candidates import Offer, is_trainable
from lana.runs.time_plan import STEPS_OF_A_SPAN, STEPS_OF_LATENCY

# An operation must be this much faster than the teacher's own to be worth training: the tables' noise.
FASTER_THAN_TEACHER = 0.97


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
        fast = [o for o in here if o.kept and is_trainable(o) and o.latency_ms < limit and first[o.key] is o]
        useful = [
            o for o in fast if not any(_contains(other, o) and other.latency_ms <= o.latency_ms for other in fast)
        ]
        chosen = _one_per_step(useful, limit, steps if len(members) == 1 else min(steps, STEPS_OF_A_SPAN))
        for offer in here:
            if not offer.kept or not is_trainable(offer) or offer in chosen:
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


def _one_per_step(offers: Sequence[Offer], limit_ms: float, steps: int) -> list[Offer]:
    """At each step one is kept of each quota: of either kind of start, and of each family with a quota of its own."""
    if not offers:
        return []
    edges = np.linspace(min(offer.latency_ms for offer in offers) * 0.999, limit_ms, steps + 1)
    best: dict[tuple[int, _Quota], Offer] = {}
    for offer in sorted(offers, key=lambda offer: offer.macs, reverse=True):
        best.setdefault((int(np.searchsorted(edges, offer.latency_ms)), _quota(offer)), offer)
    preferred = sorted(best.values(), key=lambda offer: (not _quota(offer).derived, offer.latency_ms))
    shared = [offer for offer in preferred if not _quota(offer).family]
    return shared[:steps] + [offer for offer in preferred if _quota(offer).family]


class _Quota(NamedTuple):
    """Offers of one step and quota compete; `family` names one with its own quota."""

    derived: bool
    family: str


def _quota(offer: Offer) -> _Quota:
    family = FAMILIES.get(offer.family)  # a user's own is not in the table: it starts from nothing
    if family is None:
        return _Quota(derived=False, family="")
    return _Quota(derived=family.derived, family=offer.family if family.own_quota else "")
