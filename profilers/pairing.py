"""Whole networks in turns with a reference: the ratios of their times, and whether another process disturbed them."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from profilers.clock import Clock, Clocks, Switches
from profilers.runtime import Session
from profilers.timing import chunks, run_count

VISIT_MS = 20.0  # of a whole network (with 4 ms one of 5 ms came out 10% slower, and scattered twice as much)
LEAST_ROUNDS = 7  # of whole networks, however long they take
LEAST_CALM_ROUNDS = 5  # fewer say nothing: then all rounds count, and the process is called disturbed
PATIENCE = 3  # times as long at most, where calm rounds are too few
SLOWED = 1.1  # the kernels' index over the least one: beside a busy process it is 1.3 and more


@dataclass(frozen=True, kw_only=True)
class PairedRounds:
    """The figures of one process.

    Attributes:
        ratios: of each candidate, round by round: calm rounds where there are enough of them, else all.
        calm: of each candidate, whether they are calm ones.
        reference_s: at each visit, of calm ones where there are any.
    """

    ratios: list[list[float]]
    calm: list[bool]
    reference_s: list[float]


@dataclass(frozen=True)
class _Look:
    """The median of a visit, of its calm runs where there are any."""

    run_s: float
    calm: bool


@dataclass(kw_only=True)
class _Pairing:
    """Visits in turns. `kernels` give an index of the machine's speed where no switches are counted."""

    reference: Session
    candidates: Sequence[Session]
    clocks: Clocks
    at: Callable[[int], None]
    kernels: Callable[[], float] | None
    fastest: dict[int, float] = field(default_factory=dict)
    least_index: float = math.inf
    seen: list[_Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rounds: list[list[_Look]] = [[] for _ in self.candidates]

    def round(self, order: Sequence[int]) -> None:
        """Every few candidates stand between two visits of the reference, and are compared with the mean of the two."""
        before, undisturbed = self._look_at_reference(), self._undisturbed()
        for chunk in chunks(order, 4):
            looks = [(i, self._look(i)) for i in chunk]
            after, still = self._look_at_reference(), self._undisturbed()
            for i, look in looks:
                calm = look.calm and before.calm and after.calm and undisturbed and still
                self.rounds[i].append(_Look(look.run_s / math.sqrt(before.run_s * after.run_s), calm))
            before, undisturbed = after, still

    def calm_rounds(self) -> list[int]:
        return [sum(look.calm for look in looks) for looks in self.rounds]

    def found(self) -> PairedRounds:
        calm = [count >= LEAST_CALM_ROUNDS for count in self.calm_rounds()]
        return PairedRounds(
            ratios=[
                [look.run_s for look in looks if look.calm or not enough]
                for looks, enough in zip(self.rounds, calm, strict=True)
            ],
            calm=calm,
            reference_s=[look.run_s for look in self.seen if look.calm] or [look.run_s for look in self.seen],
        )

    def _look_at_reference(self) -> _Look:
        self.seen.append(self._look(-1))
        return self.seen[-1]

    def _look(self, i: int) -> _Look:
        """At each visit a first run only warms up: a network of a few milliseconds is not warm after one run."""
        self.at(i)
        session, switches = self.reference if i < 0 else self.candidates[i], self.clocks.switches
        warm = session.durations(1, self.clocks.get(self.fastest.get(i, math.inf)))[0]
        about_s = min(warm, self.fastest.get(i, warm))
        count, clock = run_count(about_s, VISIT_MS / 1e3, 50), self.clocks.get(about_s)
        runs, calm = watched(session, count, clock, switches)
        self.fastest[i] = min(*runs, warm, self.fastest.get(i, warm))
        return _Look(statistics.median(calm or runs), bool(calm))

    def _undisturbed(self) -> bool:
        """By the kernels: whether the machine is about as fast as it ever was in this process."""
        if self.kernels is None:
            return True
        index = self.kernels()
        self.least_index = min(self.least_index, index)
        return index <= SLOWED * self.least_index


def watched(session: Session, count: int, clock: Clock, switches: Switches | None) -> tuple[list[float], list[float]]:
    """Seconds of all runs, and of the calm ones: no switch in the run nor in the one before (it leaves cold caches)."""
    if switches is None:
        runs = session.durations(count, clock)
        return runs, runs
    counts: list[int] = []

    def counting() -> float:
        counts.append(switches.count())
        return clock()

    runs = [max(run - switches.cost_s, 1e-9) for run in session.durations(count, counting)]
    if len(counts) != count + 1:  # a session that times by itself, as on a device of its own
        return runs, runs
    undisturbed = [before == after for before, after in itertools.pairwise(counts)]
    calm = [run for i, run in enumerate(runs) if undisturbed[i] and (i == 0 or undisturbed[i - 1])]
    return runs, calm


def paired_rounds(
    reference: Session,
    candidates: Sequence[Session],
    *,
    seconds: float,
    seed: int = 0,
    clocks: Clocks,
    at: Callable[[int], None] = lambda item: None,
    kernels: Callable[[], float] | None = None,
) -> PairedRounds:
    """Time of each candidate over that of the reference beside it, round by round.

    It takes `seconds`, or seven rounds; where calm rounds are too few but there are some, up to three times as long.
    `at` is told -1 for the reference.
    """
    generator, start_s = random.Random(seed), clocks.plain()
    pairing = _Pairing(reference=reference, candidates=candidates, clocks=clocks, at=at, kernels=kernels)
    rounds, usual_s = 0, seconds
    while True:
        order = list(range(len(candidates)))
        generator.shuffle(order)
        pairing.round(order)
        rounds, spent_s = rounds + 1, clocks.plain() - start_s
        if rounds <= LEAST_ROUNDS:
            usual_s = max(seconds, spent_s)
        calm = pairing.calm_rounds()
        waits = any(calm) and min(calm) < LEAST_CALM_ROUNDS
        if rounds >= LEAST_ROUNDS and spent_s >= (PATIENCE if waits else 1) * usual_s:
            return pairing.found()
