"""The samples of one computation and what follows from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profilers.errors import ProfilerError

LEAST_CALM = 6  # rounds: with fewer no interval of a median is known
NOISY = 0.05  # a relative interval above this is marked in the table: decisions between operations are finer


@dataclass(frozen=True, kw_only=True)
class Round:
    """One visit of a computation.

    Attributes:
        runs_s: seconds of each run, one straight after the other; runs that only warm up are not among them.
        cold_s: seconds of the run before them, with the caches walked over.
        index: how many times longer than in the reference the calibration kernels took in this round.
        process: which of the measuring processes, from 0.
        calm: whether no other process took the processor in this round, as far as that is noticed.
    """

    runs_s: tuple[float, ...]
    cold_s: float
    index: float
    process: int = 0
    calm: bool = True

    def __post_init__(self) -> None:
        if not self.runs_s or min(self.runs_s) <= 0 or self.index <= 0:
            raise ProfilerError(
                f"A round needs runs of positive seconds and a positive index, got {self.runs_s} and {self.index}."
            )

    @property
    def latency_s(self) -> float:
        """Seconds of one run, at the speed of the reference."""
        return statistics.median(self.runs_s) / self.index


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Rounds of samples of one computation on one runtime; milliseconds at the speed of the device's reference.

    >>> rounds = [Round(runs_s=(t * index,), cold_s=3e-3 * index, index=index) for t, index in
    ...           ((2.0e-3, 1.0), (2.1e-3, 1.3), (1.9e-3, 1.0), (2.0e-3, 0.9), (2.0e-3, 1.0), (2.2e-3, 1.1))]
    >>> m = Measurement(rounds=tuple(rounds))
    >>> round(m.latency_ms, 6), round(m.cold_ms, 6), round(m.relative_interval, 6)  # ±(2.2 − 1.9) / 2 / 2.0
    (2.0, 3.0, 0.075)

    Raises:
        ProfilerError: there is no round.
    """

    rounds: tuple[Round, ...]

    def __post_init__(self) -> None:
        if not self.rounds:
            raise ProfilerError("A measurement needs at least one round; a failure is a row with its error.")

    @property
    def used(self) -> Sequence[Round]:
        """The calm rounds where they bound a median, else all."""
        calm = [one for one in self.rounds if one.calm]
        return calm if len(calm) >= LEAST_CALM else self.rounds

    @property
    def calm_processes(self) -> int:
        """Processes in which at least half of the rounds were calm."""
        flags: dict[int, list[bool]] = {}
        for one in self.rounds:
            flags.setdefault(one.process, []).append(one.calm)
        return sum(2 * sum(calm) >= len(calm) for calm in flags.values())

    @property
    def latency_ms(self) -> float:
        """The median over rounds."""
        return statistics.median(one.latency_s for one in self.used) * 1e3

    @property
    def p90_ms(self) -> float:
        """The 90th percentile over all runs: nine in ten take no longer."""
        runs = sorted(run / one.index for one in self.used for run in one.runs_s)
        return runs[math.ceil(0.9 * len(runs)) - 1] * 1e3

    @property
    def cold_ms(self) -> float:
        """The median over rounds of the first run after the caches were walked over."""
        return statistics.median(one.cold_s / one.index for one in self.used) * 1e3

    @property
    def raw_ms(self) -> float:
        """The median over rounds as the clock had it, without calibration."""
        return statistics.median(statistics.median(one.runs_s) for one in self.used) * 1e3

    @property
    def relative_interval(self) -> float:
        """Half the 95% interval of the median over rounds, relative to it; infinite for fewer than six rounds."""
        latencies = [one.latency_s for one in self.used]
        low, high = median_interval(latencies)
        return (high - low) / 2 / statistics.median(latencies)

    @property
    def noisy(self) -> bool:
        """True if the interval is too wide to decide between operations."""
        return self.relative_interval > NOISY

    def __add__(self, other: Measurement) -> Measurement:
        """The rounds of both; their process numbers must differ."""
        return Measurement(rounds=self.rounds + other.rounds)

    def to_json(self) -> list[list[Any]]:
        """Compact: per round the process, the index, the cold run, the runs, in microseconds; 0 where not calm."""
        return [
            [
                one.process,
                _digits(one.index),
                _digits(one.cold_s * 1e6),
                [_digits(run * 1e6) for run in one.runs_s],
                *([] if one.calm else [0]),
            ]
            for one in self.rounds
        ]

    @classmethod
    def from_json(cls, rounds: Sequence[Sequence[Any]]) -> Measurement:
        return cls(
            rounds=tuple(
                Round(
                    process=process,
                    index=index,
                    cold_s=cold / 1e6,
                    runs_s=tuple(run / 1e6 for run in runs),
                    calm=not disturbed,
                )
                for process, index, cold, runs, *disturbed in rounds
            )
        )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The distribution-free 95% interval of the median, from order statistics.

    The k-th smallest of n lies above the median with the probability of fewer than k heads in n tosses; the largest k
    with at most 2.5% on either side is taken (David and Nagaraja, Order Statistics, section 7.1).

    >>> median_interval(list(range(1, 13)))  # n = 12: P(fewer than 3 heads) = 79 / 4096 = 1.9%
    (3, 10)
    """
    ordered, count = sorted(values), len(values)
    tail, k = 0.0, 0
    while k < count:
        tail += math.comb(count, k) / 2**count
        if tail > 0.025:
            break
        k += 1
    return (ordered[k - 1], ordered[count - k]) if k else (-math.inf, math.inf)


def _digits(value: float) -> float:
    """Five significant digits: a ten-thousandth, below what any clock repeats."""
    return float(f"{value:.5g}")
