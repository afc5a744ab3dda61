"""Does a table come out the same again? The same operations measured twice, and next to a busy process.

    python benchmarks/repeatability.py timm:efficientnet_b0 --out FOLDER --apart-min 10

Three tables, each from nothing but the device's stored calibration reference: one, another that begins at least so many
minutes later, and one with a process on another processor that computes half of the time.
Goals: median difference at most 3%, 95% of the rows within 10%. After an interruption, the same command resumes.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import click
from neighbour import beside

from lana.common.progress import duration
from lana.config.recipe import Recipe
from lana.models.teacher import teacher_of
from lana.networks.layers import find_layers
from lana.pool.builder import make_candidates
from profilers import LatencyTable, create_runtime, profile

# Computes and walks over memory for 50 ms, sleeps for 50 ms, and so on.
NEIGHBOUR = """
import time
import numpy as np
a = np.random.default_rng(0).standard_normal((700, 700)).astype(np.float32)
big = np.zeros(4_000_000)
while True:
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        a @ a
        big += 1.0
    time.sleep(0.05)
"""


def tell(name: str, first: LatencyTable, other: LatencyTable) -> None:
    rows = first.diff(other).dropna(subset=["ratio"])
    apart = (rows["ratio"] - 1).abs()
    cold = (other.rows["cold_ms"] / first.rows["cold_ms"] - 1).abs()
    print(
        f"{name}: {len(rows)} rows, median difference {apart.median():.2%}, within 10% {(apart <= 0.1).mean():.1%}, "
        f"median ratio {rows['ratio'].median():.3f}; cold figures {cold.median():.2%}; "
        f"noisy {first.rows['noisy'].mean():.0%} and {other.rows['noisy'].mean():.0%}",
        flush=True,
    )


@click.command()
@click.argument("model")
@click.option("--runtime", default="onnxruntime-cpu")
@click.option("--threads", default=1)
@click.option("--apart-min", default=10.0, help="Between the beginnings of the two.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(model: str, runtime: str, threads: int, apart_min: float, out: Path) -> None:
    recipe = Recipe(model=model, runtime=runtime, threads=threads)
    settings, teacher = recipe.profiling.runtime_settings, teacher_of(recipe.teacher, pretrained=False)
    scan = find_layers(teacher.module, (teacher.example(),))
    format = create_runtime(runtime, settings).format
    _, computations = make_candidates(
        teacher, scan, recipe.profiling.pool, batch=recipe.profiling.batch, folder=out / "computations", format=format
    )
    tables = {}
    for name in ("first", "busy", "second"):
        path, begun_s = out / f"{name}.csv", time.monotonic()
        if name == "second" and not path.exists():
            first_s = (out / "first.began").stat().st_mtime
            time.sleep(max(0.0, first_s + 60 * apart_min - time.time()))
        if name == "first" and not path.exists():
            (out / "first.began").touch()
        with beside(NEIGHBOUR) if name == "busy" else contextlib.nullcontext():
            tables[name] = profile(computations, runtime=runtime, settings=settings, table=path)
        print(f"{name}: {len(tables[name])} rows in {duration(time.monotonic() - begun_s)}", flush=True)
    tell("two tables", tables["first"], tables["second"])
    tell("next to a busy process", tables["first"], tables["busy"])


if __name__ == "__main__":
    main()
