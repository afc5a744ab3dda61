"""How long the solver takes, against its goals: one solution, many diverse ones, a frontier, large and adversarial.

    python benchmarks/solver.py [--plot cost_against_size.png]
    python benchmarks/solver.py --parts
    python benchmarks/solver.py --credits

Each figure is the median of several random problems, building included. The paper (section 3.3) reports 4.5
CPU-minutes for 100 diverse solutions of 46 layers × 197 operations.

`--parts` shows what each part of `solvers` saves in CPU time. It leaves out one part after the other, and all of them:
then one program of PuLP and HiGHS holds all choices.

`--credits` solves problems with a credit at each border, and the same problems without.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import click
import numpy as np

from solvers import (
    Credit,
    Limit,
    SelectionProblem,
    Solution,
    Termination,
    check,
    fastest,
    frontier,
    ilp,
    solve,
    solve_diverse,
)
from solvers.cover import Cover
from solvers.credits import columns_of
from solvers.relaxation import Relaxation
from solvers.rows import Rows, rows_of


def problem(layers: int, operations: int, seed: int, *, adversarial: bool = False) -> SelectionProblem:
    """Losses that fall as latency rises, as distilled operations' do; adversarial: 1 − latency + 0.001 noise."""
    random = np.random.default_rng(seed)
    latency = random.uniform(0.05, 1.0, (layers, operations))
    noise = random.normal(0.0, 1e-3, latency.shape) if adversarial else random.exponential(0.3, latency.shape)
    loss = 1.0 - latency + noise if adversarial else (1.0 - latency) ** 2 + noise
    limit = Limit(upper=0.5 * float(np.median(latency, axis=1).sum()))
    return SelectionProblem.from_tables(loss, {"ms": latency}, limits={"ms": limit})


def int8_problem(
    layers: int, operations: int, seed: int, *, adversarial: bool = False, credits: bool = True
) -> SelectionProblem:
    """Half of the operations of a layer in int8: half the time, a conversion at its end, which int8 neighbours save."""
    fp32, random = problem(layers, operations, seed, adversarial=adversarial), np.random.default_rng([seed, 1])
    int8 = np.arange(fp32.size) % operations < operations // 2
    conversions = random.uniform(0.0, 0.2, layers - 1)
    at_end = np.append(conversions, 0.0)[fp32.first]
    sides = [tuple(np.flatnonzero(int8 & (fp32.first == layer)).tolist()) for layer in range(layers)]
    borders = zip(sides, sides[1:], conversions.tolist(), strict=False)
    return replace(
        fp32,
        loss=fp32.loss + 0.02 * int8,
        costs={"ms": np.where(int8, 0.5 * fp32.costs["ms"] + at_end, fp32.costs["ms"])},
        limits={"ms": Limit(upper=0.15 * layers)},
        credits=tuple(Credit(producers=a, consumers=b, amounts={"ms": saved}) for a, b, saved in borders if credits),
    )


def compare_credits() -> None:
    def best(given: SelectionProblem) -> None:
        found = solve(given)
        check(given, found.chosen, costs=found.costs)

    deep, wide = functools.partial(int8_problem, 50, 40), functools.partial(int8_problem, 46, 197)
    cases: dict[str, tuple[Callable[[SelectionProblem], object], Callable[..., SelectionProblem]]] = {
        "one, 50 × 40": (best, deep),
        "one, 50 × 40, adversarial": (best, functools.partial(deep, adversarial=True)),
        "one, 46 × 197": (best, wide),
        "one, 46 × 197, adversarial": (best, functools.partial(wide, adversarial=True)),
        "fastest, 50 × 40": (lambda given: fastest(given, "ms"), deep),
        "10 diverse, 50 × 40": (lambda given: solve_diverse(given, count=10, overlap=0.7), deep),
        "frontier of 20, 50 × 40": (lambda given: frontier(given, "ms", points=20), deep),
    }

    def run(seed: int, case: str, *, credits: bool) -> None:
        call, make = cases[case]
        call(make(seed, credits=credits))

    for case in cases:
        with_s, without_s = (
            seconds(functools.partial(run, case=case, credits=some), 3, time.process_time) for some in (True, False)
        )
        print(f"{case:28s} {with_s:7.2f} s of CPU   without credits {without_s:7.2f} s", flush=True)


def seconds(call: Callable[[int], object], tries: int, clock: Callable[[], float] = time.perf_counter) -> float:
    durations = []
    for seed in range(tries):
        start_s = clock()
        call(seed)
        durations.append(clock() - start_s)
    return statistics.median(durations)


def plain(search: ilp._Search) -> None:
    """One integer program over all choices, in place of a search."""
    search.kept, cover, loss = columns_of(search.problem, np.arange(search.problem.size))
    columns = np.arange(len(search.kept))
    outcome = search._integer(cover, loss, rows_of(search.problem, search.kept), columns)
    search.bound = outcome.bound
    search.exhausted = outcome.termination in (Termination.optimal, Termination.infeasible)


def at_once(search: ilp._Search, cover: Cover, loss: np.ndarray, rows: Rows, relaxation: Relaxation) -> None:
    """All choices that the bounds leave in one program, in place of ever more columns."""
    if not search._done():
        within = relaxation.excess <= search.objective - relaxation.bound + search.small
        outcome = search._integer(cover, loss, rows, np.flatnonzero(within))
        search.bound = max(search.bound, min(outcome.bound, search.objective))


def compare_parts() -> None:
    without: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "all parts": contextlib.nullcontext,
        "PuLP + HiGHS alone": lambda: mock.patch.object(ilp._Search, "run", plain),
        "no growth": lambda: mock.patch.object(ilp._Search, "_grow", at_once),
        "no priced paths": lambda: mock.patch.object(ilp, "priced_paths"),
        "no bisected price": lambda: mock.patch("solvers.relaxation._bracket"),
        "no dominance": lambda: mock.patch(
            "solvers.reduction._dominated", lambda problem, allowed: np.zeros(problem.size, dtype=bool)
        ),
    }
    cases: dict[str, tuple[Callable[[int], object], int]] = {
        "one, 46 × 197": (lambda seed: solve(problem(46, 197, seed)), 5),
        "one, 200 × 500": (lambda seed: solve(problem(200, 500, seed)), 3),
        "adversarial, 46 × 197": (lambda seed: solve(problem(46, 197, seed, adversarial=True)), 3),
        "30 diverse, 46 × 197": (lambda seed: solve_diverse(problem(46, 197, seed), count=30, overlap=0.7), 2),
        "100 diverse, 46 × 197": (lambda seed: solve_diverse(problem(46, 197, seed), count=100, overlap=0.7), 1),
    }
    for case, (call, tries) in cases.items():
        reference_s = 0.0
        for name, patch in without.items():
            if tries == 1 and name == "PuLP + HiGHS alone":  # minutes
                continue
            with patch():
                took_s = seconds(call, tries, time.process_time)
            reference_s = reference_s or took_s
            print(f"{case:24s} {name:20s} {took_s:8.2f} s of CPU   × {took_s / reference_s:.2f}", flush=True)


@click.command()
@click.option("--plot", type=click.Path(path_type=Path), help="Draw seconds against the number of choices here.")
@click.option("--parts", is_flag=True, help="Compare with PuLP and HiGHS alone, and with each part left out.")
@click.option("--credits", is_flag=True, help="Solve with a credit at each border, and without.")
def main(plot: Path | None, parts: bool, credits: bool) -> None:
    solve(problem(4, 4, 0))  # imports and the solver's own start
    if credits:
        compare_credits()
        return
    if parts:
        compare_parts()
        return
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
