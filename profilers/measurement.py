"""Samples of one computation, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

NOISY = 0.05  # half width of the 95% interval of the median, as a share: above it a row says `noisy`


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The distribution-free 95% interval of the median: order statistics around n/2 ± 0.98 √n."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * sqrt(count)
    low = max(0, int(count / 2 - reach))
    high = min(count - 1, int(count / 2 + reach))
    return ordered[low], ordered[high]


def half_width(values: Sequence[float]) -> float:
    """Half the width of the median's interval, as a share of the median."""
    low, high = median_interval(values)
    return (high - low) / 2 / median(values)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One computation's rounds: seconds a call, and the state of the device in the same round.

    `device_index[i]` is how slow the calibration kernels were in round i, relative to the device's reference; the
    latency is the median of the ratios, so that rows from different days compare.

    >>> m = Measurement(raw_s=(0.002, 0.003, 0.0022), device_index=(1.0, 1.5, 1.1))
    >>> round(m.latency_ms, 6)  # every ratio is 2 ms
    2.0

    Raises:
        ValueError: no samples, or of different lengths.
    """

    raw_s: tuple[float, ...]
    device_index: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.raw_s or len(self.raw_s) != len(self.device_index):
            raise ValueError(
                f"Expected as many device indices as samples, at least one; got {len(self.raw_s)} and {len(self.device_index)}."
            )

    @property
    def ratios(self) -> list[float]:
        return [raw / index for raw, index in zip(self.raw_s, self.device_index, strict=True)]

    @property
    def latency_ms(self) -> float:
        return median(self.ratios) * 1e3

    @property
    def p90_ms(self) -> float:
        ordered = sorted(self.ratios)
        return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))] * 1e3

    @property
    def half_width(self) -> float:
        return half_width(self.ratios)

    @property
    def noisy(self) -> bool:
        return self.half_width > NOISY
