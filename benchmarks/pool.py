"""Distil and score the pool of a profiled run on another machine than the one that its students are for.

    python benchmarks/pool.py RUN --recipe recipe.yaml                # where its students are to run: profile
    python benchmarks/pool.py RUN --device cuda --workers 12          # there: distil and score

Then RUN goes back with its pool finished, and `lana select` measures where it was profiled. Workers share a GPU:
one process of small operations keeps it waiting for their kernels to be launched.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from lana.common.progress import reporting
from lana.config.recipe import Recipe
from lana.pool.candidates import pairs
from lana.pool.stages import distill_pool, profile_pool, score_pool
from lana.runs.context import prepare
from lana.runs.run import Run


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--recipe", "begun_by", type=click.Path(path_type=Path, exists=True), help="Begin RUN and profile.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--engine", default="processes", show_default=True)
@click.option("--workers", default=12, show_default=True)
def main(run: Path, begun_by: Path | None, device: str, engine: str, workers: int) -> None:
    if begun_by is not None:
        recipe = Recipe.from_yaml(begun_by)
        with reporting(), Run.open(run, recipe) as opened:
            profile_pool(prepare(opened, recipe))
        return
    recipe = Recipe.from_yaml(run / "recipe.yaml")
    with reporting(), Run.open(run, recipe) as opened:
        context = prepare(opened, recipe)
        there = dataclasses.replace(context, recipe=recipe.replace(device=device, engine=engine, workers=workers))
        candidates, _ = distill_pool(there, profile_pool(context))
        score_pool(there, candidates)
        seconds = opened.seconds()
        print(f"{len(pairs(candidates, trainable_only=True))} operations distilled in {seconds['distill']:.0f} s")
        print(f"{len(pairs(candidates))} operations scored in {seconds['score']:.0f} s")


if __name__ == "__main__":
    main()
