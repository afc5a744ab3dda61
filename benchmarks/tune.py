"""Tune what `family.py` and `peers.py` wrote with --elsewhere: on a machine with a GPU.

    python benchmarks/family.py RUN … --elsewhere --out runs/here                  # writes the networks that wait
    python benchmarks/tune.py RUN runs/here/tuned --epochs 10 --seeds 3            # there
    python benchmarks/family.py RUN … --epochs 10 --seeds 3 --out runs/here        # finds the results

The recipe of RUN names the teacher and the data. Several processes share the device: one small network leaves most of a
large GPU idle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from contenders import WAITING, result_of, tune_row, tuning, tuning_setup

from lana.config.recipe import Recipe
from lana.engines.processes import ProcessEngine
from lana.runs.context import RunContext, prepare
from lana.runs.run import Run
from lana.training.finetuning import epoch_batches

Row = tuple[Path, int]  # a network that waits, and a seed


def tune_rows(context: RunContext, rows: Sequence[Row], *, epochs: float, device: str, processes: int) -> None:
    """The teacher's outputs first, once for all rows of a seed; then the rows."""

    def cache_outputs(task: tuple[Path, int, int]) -> None:
        folder, seed, epoch = task
        for _ in epoch_batches(tuning_setup(context, tuning(epochs, seed), folder, device), epoch):
            pass

    def tune(row: Row) -> None:
        path, seed = row
        network, result = torch.load(path, weights_only=False), result_of(path.with_suffix(""), epochs, seed)
        tune_row(context, network, result, tuning(epochs, seed), device)

    seeds = dict.fromkeys((path.parent, seed) for path, seed in rows)
    engine = ProcessEngine(processes=processes, start_method="fork")  # they share the decoded images
    epochs_of_seeds = [(*one, epoch) for one in seeds for epoch in range(math.ceil(epochs))]
    for outcome in itertools.chain(engine.map(cache_outputs, epochs_of_seeds), engine.map(tune, rows)):
        if outcome.error:
            print(outcome.error, flush=True)


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--epochs", type=float, default=3.0)
@click.option("--seeds", type=int, default=1)
@click.option("--last", multiple=True, help="Networks of such names (teacher*) after all others.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--processes", default=12, show_default=True)
def main(
    run: Path, folder: Path, epochs: float, seeds: int, last: tuple[str, ...], device: str, processes: int
) -> None:
    torch.set_num_threads(1)  # before the processes part: threads do not come along
    recipe = Recipe.from_yaml(run / "recipe.yaml")
    networks = sorted(
        folder.glob(f"*{WAITING}"), key=lambda path: (any(path.match(pattern) for pattern in last), path.name)
    )
    everything = [(path, seed) for seed, path in itertools.product(range(seeds), networks)]
    rows = [(path, seed) for path, seed in everything if not result_of(path.with_suffix(""), epochs, seed).is_file()]
    with Run.open(run, recipe) as opened:
        context = prepare(opened, recipe)
        tune_rows(context, rows, epochs=epochs, device=device, processes=processes)
    missing = [row for row in rows if not result_of(row[0].with_suffix(""), epochs, row[1]).is_file()]
    print(f"{len(rows) - len(missing)} of {len(rows)} tuned")
    raise SystemExit(1 if missing else 0)


if __name__ == "__main__":
    main()
