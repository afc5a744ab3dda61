"""Distil and score the pool of a profiled run in several processes: on a machine with a GPU, for a run of another.

    python benchmarks/pool.py RUN --recipe recipe.yaml                # where its students are to run: profile
    python benchmarks/pool.py RUN --device cuda --processes 12        # there: distil and score

Then RUN goes back with its pool finished, and `lana select` measures where it was profiled. A process takes whole
layers, so every operation is trained as it is by `lana compress`: one process of small operations keeps a GPU waiting
for their kernels to be launched.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pandas as pd
import torch

from lana.common.progress import reporting
from lana.config.recipe import Recipe
from lana.engines.processes import ProcessEngine
from lana.networks.layers import Layer
from lana.pool.candidates import Candidate, pairs
from lana.pool.stages import Operations, distill_pool, profile_pool, score_operations, score_pool, train_operations
from lana.runs.context import RunContext, prepare
from lana.runs.run import Run

Pairs = Sequence[tuple[Layer, str]]


def parts_of(pool: Pairs, count: int) -> list[list[tuple[Layer, str]]]:
    """The pool in at most `count` parts of about equal numbers of operations; a layer is in one."""
    by_layer: dict[str, list[tuple[Layer, str]]] = {}
    for layer, name in pool:
        by_layer.setdefault(layer.name, []).append((layer, name))
    parts: list[list[tuple[Layer, str]]] = [[] for _ in range(count)]
    for whole in sorted(by_layer.values(), key=len, reverse=True):
        min(parts, key=len).extend(whole)
    return [part for part in parts if part]


def in_parts(work: Callable[[int], None], count: int) -> None:
    """`work(0)` … `work(count - 1)` at once, in processes that share the decoded images.

    Raises:
        click.ClickException: one failed.
    """
    outcomes = list(ProcessEngine(processes=count, start_method="fork").map(work, range(count)))
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        raise click.ClickException("\n".join([*errors, "Finished work is kept."]))


def distil(context: RunContext, parts: Sequence[Pairs], candidates: Sequence[Candidate]) -> None:
    folder = context.run.pool / "operations"
    made = [folder / f"part{index}" for index in range(len(parts))]
    in_parts(lambda i: train_operations(context, parts[i], candidates, made[i], silent), len(parts))
    for part in made:
        for layer in (entry for entry in part.iterdir() if entry.is_dir()):
            shutil.move(layer, folder / layer.name)
    together([part / "distilled.csv" for part in made], folder / "distilled.csv")
    for part in made:
        shutil.rmtree(part)


def score(context: RunContext, parts: Sequence[Pairs], operations: Operations) -> None:
    made = [context.run.pool / f"scores{index}.csv" for index in range(len(parts))]
    in_parts(lambda i: score_operations(context, parts[i], operations, made[i], silent), len(parts))
    together(made, context.run.scores)
    for path in made:
        path.unlink()


def silent(done: float, detail: str) -> None:
    """Several processes would write over one another's progress."""


def together(files: Sequence[Path], path: Path) -> None:
    frames = [pd.read_csv(file, dtype=str, keep_default_na=False) for file in files if file.is_file()]
    pd.concat(frames).to_csv(path, index=False)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--recipe", "begun_by", type=click.Path(path_type=Path, exists=True), help="Begin RUN and profile.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--processes", default=12, show_default=True)
def main(run: Path, begun_by: Path | None, device: str, processes: int) -> None:
    if begun_by is not None:
        recipe = Recipe.from_yaml(begun_by)
        with reporting(), Run.open(run, recipe) as opened:
            profile_pool(prepare(opened, recipe))
        return
    torch.set_num_threads(1)  # before the processes part: threads do not come along
    recipe = Recipe.from_yaml(run / "recipe.yaml")
    with Run.open(run, recipe) as opened:
        context = prepare(opened, recipe)
        on_device = dataclasses.replace(context, recipe=recipe.replace(device=device))
        candidates, began_s = profile_pool(context), time.monotonic()
        trained = pairs(candidates, trainable_only=True)
        if trained and not opened.stages().get("distill"):
            distil(on_device, parts_of(trained, processes), candidates)
        print(f"{len(trained)} operations distilled in {time.monotonic() - began_s:.0f} s", flush=True)
        candidates, operations = distill_pool(context, candidates)
        pool, began_s = pairs(candidates), time.monotonic()
        if not opened.stages().get("score"):
            score(on_device, parts_of(pool, processes), operations)
        score_pool(context, candidates, operations)
        print(f"{len(pool)} operations scored in {time.monotonic() - began_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
