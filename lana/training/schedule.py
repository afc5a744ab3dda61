"""The learning rate over a training."""

import math


def learning_rate(step: int, steps: int, peak: float, warmup: float = 0.1) -> float:
    """Linear warm-up over a share of the steps (the first tenth), then a cosine to zero.

    >>> [round(learning_rate(step, 10, 1.0), 2) for step in range(10)]
    [1.0, 0.97, 0.88, 0.75, 0.59, 0.41, 0.25, 0.12, 0.03, 0.0]
    """
    progress = (step + 1) / max(steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, progress - warmup) / (1 - warmup)))
    return peak * min(progress / warmup if warmup else 1.0, cosine)
