"""How long the solver takes, against its goals: one solution, many diverse ones, a frontier, large and adversarial.

    python benchmarks/solver.py [--plot cost_against_size.png]

Each figure is the median of several random problems, building included. The paper (section 3.3) reports 4.5
CPU-minutes for 100 diverse solutions of 46 layers × 197 operations.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from solvers import Limit, SelectionProblem, Solution, frontier, solve, solve_diverse


def problem(layers: int, operations: int, seed: int, *, adversarial: bool = False) -> SelectionProblem:
    """Losses that fall as latency rises, as distilled operations' do; adversarial: 1 − latency + 0.001 noise."""
    random = np.random.default_rng(seed)
    latency = random.uniform(0.05, 1.0, (layers, operations))
    noise = random.normal(0.0, 1e-3, latency.shape) if adversarial else random.exponential(0.3, latency.shape)
    loss = 1.0 - latency + noise if adversarial else (1.0 - latency) ** 2 + noise
    limit = Limit(upper=0.5 * float(np.median(latency, axis=1).sum()))
    return SelectionProblem.from_tables(loss, {"ms": latency}, limits={"ms": limit})


def seconds(call: Callable[[int], object], tries: int) -> float:
    found = []
    for seed in range(tries):
        start_s = time.perf_counter()
        call(seed)
        found.append(time.perf_counter() - start_s)
    return statistics.median(found)


@click.command()
@click.option("--plot", type=click.Path(path_type=Path), help="Draw seconds against the number of choices here.")
def main(plot: Path | None) -> None:
    solve(problem(4, 4, 0))  # imports and the solver's own start
    worst = 0.0

    def adversarial(seed: int) -> None:
        nonlocal worst
        worst = max(worst, solve(problem(46, 197, seed, adversarial=True), gap=1e-4, time_limit_s=5.0).gap)

    rows = [
        ("one solution, 46 × 197", seconds(lambda seed: solve(problem(46, 197, seed)), 5), 0.3),
        (
            "100 diverse ones (overlap 0.7), 46 × 197",
            seconds(lambda seed: solve_diverse(problem(46, 197, seed), count=100, overlap=0.7), 3),
            20.0,
        ),
        (
            "frontier of 50 points, 46 × 197",
            seconds(lambda seed: frontier(problem(46, 197, seed), "ms", points=50), 3),
            10.0,
        ),
        ("one solution, 200 × 500", seconds(lambda seed: solve(problem(200, 500, seed)), 3), 3.0),
        ("adversarial, 46 × 197, gap 1e-4", seconds(adversarial, 5), 5.0),
    ]
    for name, took_s, goal_s in rows:
        print(f"{name:42s} {took_s:8.3f} s   goal {goal_s:5.1f} s   {'met' if took_s <= goal_s else 'MISSED'}")
    print(f"largest gap of the adversarial ones: {worst:.1e}")
    if plot:
        draw(plot)


def draw(path: Path) -> None:
    import matplotlib.pyplot as plt

    shapes = [(10, 20), (20, 50), (46, 100), (46, 197), (100, 197), (100, 500), (200, 500)]
    sizes = [layers * operations for layers, operations in shapes]
    _, axes = plt.subplots(figsize=(6, 4))
    for hard in (False, True):

        def one(seed: int, layers: int, operations: int, *, hard: bool = hard) -> Solution:
            return solve(problem(layers, operations, seed, adversarial=hard), time_limit_s=30.0)

        times = [seconds(functools.partial(one, layers=shape[0], operations=shape[1]), 3) for shape in shapes]
        axes.loglog(sizes, times, "o-", label="adversarial" if hard else "random")
        print(f"{'adversarial' if hard else 'random'}: {dict(zip(sizes, np.round(times, 3).tolist(), strict=True))}")
    axes.set(xlabel="choices (layers × operations)", ylabel="seconds for one solution, gap 1e-4")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
