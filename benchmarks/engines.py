"""The engines: what they add to the time of units of a second, and how much faster two workers distil than one.

    python benchmarks/engines.py                                    # overhead in processes and on a local Ray
    python benchmarks/engines.py --recipe recipe.yaml --out runs/x  # distils a pool by one worker, then by two
    python benchmarks/engines.py --kill                             # Ray, three nodes of which one is killed

A unit here computes in one thread for about a second and takes its own time. The overhead is the rest of the time of an
engine with one worker, less that of a map of one unit that takes no time: its start and end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from lana.config.recipe import Recipe
from lana.engines.base import Engine
from lana.engines.local import LocalEngine
from lana.engines.processes import ProcessEngine
from lana.engines.ray_cluster import RayEngine
from lana.engines.units import Report, Unit, map_units
from lana.pool.candidates import pairs
from lana.pool.parallel import distill_in_units, score_in_units
from lana.pool.stages import profile_pool
from lana.runs.context import prepare
from lana.runs.run import Run

UNITS = 12


class Spend:
    """Multiplies matrices in one thread, so many times: work that takes as long wherever it is done."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, seed: int, report: Report) -> tuple[float, float]:
        """The result, and the seconds it took."""
        torch.set_num_threads(1)
        start_s = time.perf_counter()
        matrix = torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) / 16
        for done in range(self.times):
            matrix = (matrix @ matrix).tanh()
            if done % 100 == 0:
                report(done / self.times)
        return float(matrix.sum()), time.perf_counter() - start_s


def mapped(engine: Engine, work: Spend, units: Sequence[Unit]) -> tuple[dict[str, float], float, float]:
    """Results, seconds in all, and seconds that the units took by their own clocks."""
    start_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = {unit.name: value for unit, value in map_units(engine, work, units, Path(folder) / "units", title="U")}
    took_s = time.perf_counter() - start_s
    return {name: value[0] for name, value in found.items()}, took_s, sum(value[1] for value in found.values())


def overhead(engines: dict[str, Engine]) -> None:
    """The time that an engine adds to units of about a second."""
    once = Spend(2000)
    once(0, lambda share: None)
    work = Spend(round(2000 / once(0, lambda share: None)[1]))
    units = [Unit(name=f"unit-{number:02d}", content=number) for number in range(UNITS)]
    expected = mapped(LocalEngine(), work, units)[0]
    for name, engine in engines.items():
        _, begun_s, _ = mapped(engine, Spend(1), units[:1])
        values, took_s, units_s = mapped(engine, work, units)
        same = "the same values" if values == expected else "OTHER VALUES"
        print(
            f"{name}: {UNITS} units of {units_s / UNITS:.2f} s in {took_s:.2f} s, start and end {begun_s:.2f} s; "
            f"overhead {(took_s - begun_s) / units_s - 1:+.1%}; {same}"
        )


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    os.environ.update({"RAY_AUTH_MODE": "disabled", "PYTHONPATH": ":".join(sys.path)})
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=1) for _ in range(nodes - 1)]
    finally:
        made.shutdown()


def distilled(folder: Path, profiled: Path, recipe: Recipe, at_start: Callable[[], object]) -> tuple[float, float, str]:
    """Seconds of distilling and of scoring a pool into `folder`, and a digest of all that they wrote."""
    with Run.open(profiled, recipe) as run:
        context = prepare(run, recipe)
        candidates = profile_pool(context)
        pool = pairs(candidates, trainable_only=True)
        at_start()
        start_s = time.perf_counter()
        distill_in_units(context, pool, candidates, folder)
        middle_s = time.perf_counter()
        score_in_units(context, pool, folder, folder / "scores.csv")
        ended_s = time.perf_counter()
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return middle_s - start_s, ended_s - middle_s, digest.hexdigest()[:16]


def cpu_s() -> float:
    """Processor time of this process and of those it started, as far as they have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def pools(
    out: Path, recipe: Recipe, ways: dict[str, dict[str, Any]], at_start: Callable[[], object] = lambda: None
) -> None:
    first: tuple[float, str] | None = None
    for name, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            before_s = cpu_s()
            distill_s, score_s, digest = distilled(Path(folder), out, recipe.replace(**options), at_start)
        first = first or (distill_s + score_s, digest)
        same = "the same pool" if digest == first[1] else "ANOTHER POOL"
        faster = first[0] / (distill_s + score_s)
        print(
            f"{name}: distilled in {distill_s:.1f} s, scored in {score_s:.1f} s, {faster:.2f} times as fast; "
            f"{cpu_s() - before_s:.1f} s of processor time on this host, with the start; {same}",
            flush=True,
        )


@click.command()
@click.option("--recipe", "recipe_path", type=click.Path(path_type=Path, exists=True), help="Distil its pool.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/engines"), show_default=True)
@click.option("--kill", "kill_s", type=float, help="Distil on three Ray nodes, one of which is killed after seconds.")
@click.option("--ray/--no-ray", "with_ray", default=True)
def main(recipe_path: Path | None, out: Path, kill_s: float | None, with_ray: bool) -> None:
    torch.set_num_threads(1)
    if recipe_path is None:
        engines: dict[str, Engine] = {
            "this process": LocalEngine(),
            "one process": ProcessEngine(processes=1, start_method="spawn"),
        }
        overhead(engines)
        if with_ray:
            with cluster(1) as (made, _):
                overhead({"Ray, one worker": RayEngine(address=made.address)})
        return
    recipe, ways = Recipe.from_yaml(recipe_path), {"this process": {"engine": "local"}}
    if kill_s is None:
        pools(out, recipe, {**ways, "two processes": {"engine": "processes", "workers": 2}})
        return
    with cluster(3) as (made, nodes):
        timer = threading.Timer(kill_s, lambda: made.remove_node(nodes[0], allow_graceful=False))
        killed = {"three Ray nodes, one killed": {"engine": f"ray://{made.address}"}}
        pools(out, recipe, {**killed, **ways}, lambda: None if timer.ident else timer.start())


if __name__ == "__main__":
    from engines import main as imported  # workers find the classes of an imported module only

    imported()
