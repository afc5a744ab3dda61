"""A simulated fleet: seconds and memory of selecting a student for each of many devices from one pool.

    python benchmarks/fleet.py RUN --devices 50

RUN is finished as far as its scores. A device's table is a real one, the first of `hardware_tables` that holds the pool
or else the run's own. Perturbed are the device's speed, that of each family, and each row by some percent. Each device
has a budget of its own share of its teacher, and gets several diverse solutions, each checked against the budget.
Nothing is measured or exported.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from lana.delivery.remote_devices import candidates_on
from lana.pool.candidates import Candidate, read_candidates
from lana.pool.scoring import losses_of, read_scores
from lana.runs.run import Run
from lana.selection.latency_model import plain_sum_ms, total
from lana.selection.program import SelectionModel, min_distance
from profilers import LatencyTable
from solvers import solve_diverse

SHIPPED = Path(__file__).parents[1] / "hardware_tables"
SPEED, FAMILY, ROW = 1.0, 0.3, 0.05  # standard deviations of the logarithms
BUDGETS = (0.3, 0.8)  # of the teacher's latency on the device
SOLUTIONS = 4


def base_table(run: Run, candidates: Sequence[Candidate]) -> tuple[str, LatencyTable]:
    """The first shipped table that holds every structure of the pool, or the run's own."""
    keys = {candidate.key for candidate in candidates}
    for path in sorted(SHIPPED.glob("*.csv")):
        table = LatencyTable.read(path)
        if keys <= table.fields.keys():
            return path.name, table
    return "the run's own", LatencyTable.read(run.table)


def perturbed(candidates: Sequence[Candidate], random: np.random.Generator) -> list[Candidate]:
    """The candidates on another device: alike structures keep one latency."""
    speed, families = float(random.lognormal(0.0, SPEED)), sorted({candidate.family for candidate in candidates})
    of_family = dict(zip(families, random.lognormal(0.0, FAMILY, len(families)), strict=True))
    keys = sorted({candidate.key for candidate in candidates})
    of_row = dict(zip(keys, random.lognormal(0.0, ROW, len(keys)), strict=True))
    found = []
    for one in candidates:
        factor = speed * float(of_family[one.family] * of_row[one.key])
        scaled = {name: factor * getattr(one, name) for name in ("latency_ms", "cold_ms", "overhead_ms")}
        found.append(dataclasses.replace(one, **scaled))
    return found


def select(model: SelectionModel, candidates: Sequence[Candidate], share: float) -> float:
    """Solve for a device; the latency of the best solution as a share of the budget."""
    teacher_ms = plain_sum_ms(total([one.columns for one in candidates if one.operation == "teacher"]))
    there = dataclasses.replace(model, candidates=candidates, teacher_ms=teacher_ms)
    problem = there.problem(share * teacher_ms)
    solutions = solve_diverse(problem, count=SOLUTIONS, minimum_distance=min_distance(problem.layers))
    chosen = [candidates[index] for index in solutions[0].chosen]
    return plain_sum_ms(total([one.columns for one in chosen])) / (share * teacher_ms)


def memory_mib() -> float:
    """Resident now, not at its peak: a leak would show in it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--devices", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(path: Path, devices: int, seed: int) -> None:
    run = Run(path)
    recipe = run.recipe()
    losses = losses_of(read_scores(run.scores), recipe.selecting.score_by)
    pool = [one for one in read_candidates(run.pool / "candidates.csv") if one.kept and one.pair in losses]
    name, table = base_table(run, pool)
    pool = [one for one in candidates_on(table, pool) if one.kept]
    layers = list(dict.fromkeys(member for one in pool for member in one.layer.members))
    own_ms = plain_sum_ms(total([one.columns for one in pool if one.operation == "teacher"]))
    model = SelectionModel(layers=layers, candidates=pool, scores=losses, teacher_ms=own_ms, seed=recipe.seed)
    print(f"{len(layers)} layers, {len(pool)} operations, tables perturbed from {name}")
    random, shares, began_s = np.random.default_rng(seed), [], time.perf_counter()
    shown = {round(devices * share) for share in (0.02, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)}
    for number in range(1, devices + 1):
        shares.append(select(model, perturbed(pool, random), float(random.uniform(*BUDGETS))))
        if number in shown:
            took_s = time.perf_counter() - began_s
            print(f"{number:6d} devices: {took_s:8.1f} s, {took_s / number:.2f} s each, {memory_mib():.0f} MiB")
    print(f"latency of the chosen over the budget: at most {max(shares):.4f}; {sum(s > 1 for s in shares)} above it")


if __name__ == "__main__":
    main()
