"""The sampling loop: shuffled rounds of visits, its clocks an argument."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from profilers.clock import Clocks
from profilers.errors import ProfilerError
from profilers.measurement import Round
from profilers.runtime import Session

T = TypeVar("T")

DISTURBED = 0.3  # of a logarithm: a time that far from its item's median says nothing of the machine's speed
FOLLOWS_PRIOR = 0.01  # weighs as much as 25 pairs of an index that scatters by 2%

CALIBRATE_EVERY = 8  # items between two calibrations: some 30 ms, in which a machine's speed hardly drifts


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How computations of a table are sampled. The defaults take 0.1 to 0.3 s for a small one.

    Attributes:
        rounds: visits of an item in one process.
        processes: fresh ones that each item is measured in at least, since the layout of memory, which a process
            draws anew, moves a figure by more than rounds within one process differ.
        most_processes: further ones are used until the interval is narrow enough, up to this.
        interval: relative half width of the 95% interval at which an item is done.
        visit_ms: of runs one straight after the other, at a visit.
        visit_runs: at most at a visit: small computations need no more.
        evict_mb: walked over before a visit, so that its first run finds cold caches.
        group: items interleaved in one process.
        limit_s: of one item in one process; slow computations get fewer rounds, three at least.
        timeout_s: of one build or one visit, after which the item is a row with an error.
        seed: of the order.
    """

    rounds: int = 6
    processes: int = 2
    most_processes: int = 4
    interval: float = 0.02
    visit_ms: float = 4.0
    visit_runs: int = 20
    evict_mb: float = 8.0
    group: int = 24
    limit_s: float = 3.0
    timeout_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "processes", "visit_runs", "group"):
            if getattr(self, name) < 1:
                raise ProfilerError(f"{name}={getattr(self, name)}: expected at least 1.")
        for name in ("interval", "visit_ms", "limit_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ProfilerError(f"{name}={getattr(self, name)}: expected more than 0.")
        if self.most_processes < self.processes or self.evict_mb < 0:
            raise ProfilerError(
                f"most_processes={self.most_processes}, evict_mb={self.evict_mb}: expected at least "
                f"processes={self.processes} and 0."
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Cache:
    """Walks over a buffer, so that what lay in the processor's caches does not any more."""

    def __init__(self, megabytes: float) -> None:
        self.buffer = np.zeros(int(megabytes * 2**20 / 8))

    def evict(self) -> None:
        # Written, not only read: the lines are owned by this buffer then, in every kind of cache.
        self.buffer += 1.0


def run_count(run_s: float, visit_s: float, most: int) -> int:
    """Runs that fill a visit.

    >>> run_count(1e-3, 4e-3, 20), run_count(1e-6, 4e-3, 20), run_count(1.0, 4e-3, 20)
    (4, 20, 1)
    """
    return max(1, min(most, math.ceil(visit_s / run_s)))


@dataclass
class Item:
    """A session under measurement; `runs` at a visit follow from what the first visits took."""

    session: Session
    rounds: list[Round]
    run_s: float = math.inf
    spent_s: float = 0.0


def sample(
    items: Sequence[Item],
    *,
    protocol: Protocol,
    calibrate: Callable[[], float],
    clocks: Clocks,
    process: int = 0,
    at: Callable[[int], None] = lambda item: None,
) -> None:
    """Fill `rounds` of each item: shuffled rounds, with a calibration before and after every few items.

    A visit in which another process took the processor is marked. At the end the indices are steadied. `at` is told
    which item comes next, so that whoever watches knows the one that hangs.
    """
    generator, cache = random.Random(protocol.seed * 1_000_003 + process), Cache(protocol.evict_mb)
    switches = clocks.switches.count if clocks.switches is not None else lambda: 0
    for _ in range(protocol.rounds):
        order = [i for i, item in enumerate(items) if len(item.rounds) < 3 or item.spent_s < protocol.limit_s]
        generator.shuffle(order)
        before = calibrate()
        for chunk in chunks(order, CALIBRATE_EVERY):
            visits = []
            for i in chunk:
                at(i)
                counted = switches()
                visits.append((items[i], *visit(items[i], protocol, cache, clocks), switches() == counted))
            after = calibrate()
            for item, cold_s, runs, calm in visits:
                index = math.sqrt(before * after)
                item.rounds.append(Round(runs_s=tuple(runs), cold_s=cold_s, index=index, process=process, calm=calm))
            before = after
    steady(items)


def steady(items: Sequence[Item]) -> float:
    """Bring the indices of a process nearer to their median where the items do not follow them; the exponent, 0 to 1.

    An index is itself measured: where its own scatter is larger than what the machine's speed does within a process,
    dividing by it adds noise. How far the items' times follow it shows, since all of them are visited under the same
    indices: a regression of log times on log indices, each about its item's median, pulled towards 1.
    """
    pairs = [_about_median(item.rounds) for item in items if item.rounds]
    if not pairs:
        return 1.0
    times, indices = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    exponent = float((times @ indices + FOLLOWS_PRIOR) / (indices @ indices + FOLLOWS_PRIOR))
    exponent = min(1.0, max(0.0, exponent))
    middle = float(np.median([one.index for item in items for one in item.rounds]))
    for item in items:
        item.rounds[:] = [replace(one, index=middle * (one.index / middle) ** exponent) for one in item.rounds]
    return exponent


def _about_median(rounds: Sequence[Round]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of times and indices less their medians; what was disturbed is cut, so that it decides nothing."""
    times = np.log([np.median(one.runs_s) for one in rounds])
    indices = np.log([one.index for one in rounds])
    return np.clip(times - np.median(times), -DISTURBED, DISTURBED), indices - np.median(indices)


def visit(item: Item, protocol: Protocol, cache: Cache, clocks: Clocks) -> tuple[float, list[float]]:
    """Seconds of a run with cold caches, then of runs with warm ones."""
    cache.evict()
    started_s = clocks.plain()
    cold_s = item.session.durations(1, clocks.get(item.run_s))[0]
    about_s = min(item.run_s, cold_s)
    count = run_count(about_s, protocol.visit_ms / 1e3, protocol.visit_runs)
    runs = item.session.durations(count, clocks.get(about_s))
    item.run_s = min(item.run_s, *runs)
    item.spent_s += clocks.plain() - started_s
    return cold_s, runs


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts.

    >>> list(chunks([1, 2, 3, 4, 5], 2))
    [[1, 2], [3, 4], [5]]
    """
    for start in range(0, len(items), size):
        yield items[start : start + size]
