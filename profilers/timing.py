"""The sampling loop: sessions visited in shuffled rounds; its clock is an argument."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]
Call = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How often and how long to sample.

    A visit makes as many calls back to back as take `visit_s`, at least `visit_calls`: enough for warm caches, short
    enough that a round sees one state of the machine. Rounds go on until every item's estimate is narrow or a limit
    is met.
    """

    visit_s: float = 0.004
    visit_calls: int = 2
    warmup_s: float = 0.02
    least_rounds: int = 10
    most_rounds: int = 60
    narrow: float = 0.02
    seconds: float = 20.0
    seed: int = 0


def calls_per_visit(call: Call, protocol: Protocol, clock: Clock) -> int:
    """Warm up, and find how many calls make a visit."""
    call()
    start_s, calls = clock(), 0
    while calls < 2 or clock() - start_s < protocol.warmup_s:
        call()
        calls += 1
    each_s = max((clock() - start_s) / calls, 1e-9)
    return max(protocol.visit_calls, round(protocol.visit_s / each_s))


def sample(
    calls: Sequence[Call],
    protocol: Protocol,
    *,
    enough: Callable[[list[list[float]]], bool] = lambda samples: False,
    clock: Clock = time.perf_counter,
) -> list[list[float]]:
    """Seconds a call, one sample a round, for each of `calls`; all are visited in each round, in shuffled order.

    A visit's first call is not timed: it brings back the caches that the others took.
    """
    numbers = [calls_per_visit(call, protocol, clock) for call in calls]
    samples: list[list[float]] = [[] for _ in calls]
    order, rng = list(range(len(calls))), random.Random(protocol.seed)
    begin_s = clock()
    for done in range(1, protocol.most_rounds + 1):
        rng.shuffle(order)
        for index in order:
            call, number = calls[index], numbers[index]
            call()
            start_s = clock()
            for _ in range(number):
                call()
            samples[index].append((clock() - start_s) / number)
        if done >= protocol.least_rounds and (enough(samples) or clock() - begin_s > protocol.seconds):
            break
    return samples
