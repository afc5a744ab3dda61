"""Distil and score the pool of a profiled run in several processes: on a machine with a GPU, for a run of another.

    python benchmarks/pool.py RUN --recipe recipe.yaml                # where its students are to run: profile
    python benchmarks/pool.py RUN --device cuda --processes 12        # there: distil and score

Then RUN goes back with its pool finished, and `lana select` measures where it was profiled. A process takes whole
layers, so every operation is trained as it is by `lana compress`: one process of small operations keeps a GPU waiting
for their kernels to be launched.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

import lana.distill as distilling
import lana.scoring as scoring
from lana import stages
from lana.layers import Layer
from lana.pipeline import Setting, prepare
from lana.profiling import pairs
from lana.recipe import Recipe
from lana.run import Run

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


def side_by_side(work: Callable[[int], None], count: int) -> None:
    """`work(0)` … `work(count - 1)`, each in a process that shares what is loaded here: the data above all."""
    processes = [multiprocessing.get_context("fork").Process(target=work, args=(index,)) for index in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise click.ClickException("A process failed; its message is above. What is finished is kept.")


def distil(setting: Setting, parts: Sequence[Pairs], latency_ms: dict[tuple[str, str], float], device: str) -> None:
    recipe, folder = setting.recipe, setting.run.pool / "operations"

    def work(index: int) -> None:
        distilling.distill(
            setting.teacher.module,
            parts[index],
            setting.data,
            folder / f"part{index}",
            latency_ms=latency_ms,
            epochs=recipe.distill_epochs,
            images=recipe.distill_images,
            batch_size=recipe.distill_batch,
            seed=recipe.seed,
            device=device,
            precision=recipe.precision,
        )

    side_by_side(work, len(parts))
    made = [folder / f"part{index}" for index in range(len(parts))]
    for part in made:
        for layer in (entry for entry in part.iterdir() if entry.is_dir()):
            shutil.move(layer, folder / layer.name)
    together([part / "distilled.csv" for part in made], folder / "distilled.csv")
    for part in made:
        shutil.rmtree(part)


def score(setting: Setting, parts: Sequence[Pairs], operations: Any, device: str) -> None:
    recipe, made = setting.recipe, [setting.run.pool / f"scores{index}.csv" for index in range(len(parts))]

    def work(index: int) -> None:
        scoring.score(
            setting.teacher.module,
            parts[index],
            operations,
            setting.data.train.take(recipe.score_images, recipe.seed),
            setting.task,
            path=made[index],
            device=device,
            precision=recipe.precision,
        )

    side_by_side(work, len(parts))
    together(made, setting.run.scores)
    for path in made:
        path.unlink()


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
        with Run.open(run, recipe) as opened:
            stages.profile(prepare(opened, recipe))
        return
    torch.set_num_threads(1)  # before the processes part: threads do not come along
    recipe = Recipe.from_yaml(run / "recipe.yaml")
    with Run.open(run, recipe) as opened:
        setting = prepare(opened, recipe, quiet=True)
        offers, began_s = stages.profile(setting), time.monotonic()
        trained = pairs(offers, trainable_only=True)
        latency_ms = {(offer.layer.name, offer.operation): offer.latency_ms for offer in offers if offer.kept}
        if not opened.stages().get("distill"):
            distil(setting, parts_of(trained, processes), latency_ms, device)
        print(f"{len(trained)} operations distilled in {time.monotonic() - began_s:.0f} s", flush=True)
        offers, operations = stages.distill(setting, offers, recipe)
        pool, began_s = pairs(offers), time.monotonic()
        if not opened.stages().get("score"):
            score(setting, parts_of(pool, processes), operations, device)
        stages.score(setting, offers, operations)
        print(f"{len(pool)} operations scored in {time.monotonic() - began_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
