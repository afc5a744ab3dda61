"""A detector distilled and tuned on photographs without labels, against Torch-Pruning at equal latency and epochs.

    python benchmarks/detection.py net.py:detector --weights net.safetensors --decode fastestdet --fit stretch \\
        --photos parquet:photos.parquet --labelled parquet:labelled.parquet --budget 0.8x --budget 0.65x --peers

The photographs are split by seed: four fifths to distil and tune on (a tenth of them to choose epochs by), a fifth for
the agreement with the teacher's own detections. Mean average precision is that of the labelled images' test part.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from contenders import Contender, measure
from peers import pruner, search
from torch import Tensor, nn

import lana
from lana.config.recipe import Recipe
from lana.data.split import Data
from lana.detection.average_precision import mean_average_precision
from lana.evaluation.detection import Detection
from lana.evaluation.examples import load_examples, make_task
from lana.evaluation.intervals import paired_interval
from lana.evaluation.metrics import evaluate_module
from lana.networks.predictors import last_predictors
from lana.pipeline import open_finished
from lana.runs.context import RunContext
from lana.training.distributed import SingleProcess
from lana.training.finetuning import TrainingSetup, finetune

Row = dict[str, Any]


class At50(Detection):
    """Judged at an overlap of one half."""

    def figure(self, records: Sequence[Mapping[str, Tensor]]) -> float:
        return float(mean_average_precision(records)[0])


def rows_of(context: RunContext, labelled: Data, networks: Mapping[str, tuple[nn.Module, float]]) -> Iterator[Row]:
    """The figures of networks with their ratios: mAP50 beside the teacher's, and the agreement on photographs."""
    assert isinstance(context.task, Detection)
    task, device = At50(context.task.decoder), context.recipe.compute.device
    teacher = evaluate_module(context.teacher.module, labelled.test, task, device=device)
    yield {"network": "teacher", "ratio": 1.0, "map50": teacher.metric, "images": teacher.examples}
    for name, (module, ratio) in networks.items():
        found = evaluate_module(module, labelled.test, task, device=device)
        agreement = evaluate_module(module, context.data.test, context.task, device=device)
        low, high = paired_interval(task, found.records, teacher.records)
        yield {
            "network": name, "ratio": ratio, "map50": found.metric, "map50_less_teacher": found.metric - teacher.metric,
            "interval95": [low, high], "agreement": agreement.metric, "photographs": agreement.examples,
        }  # fmt: skip


def pruned_networks(context: RunContext, budgets: Sequence[float], out: Path) -> dict[str, tuple[nn.Module, float]]:
    """Torch-Pruning's networks within the budgets, tuned as the students are; its messages where it makes none."""
    keep = last_predictors(context.teacher.module, context.teacher.example())

    def scores(output: Any, _: Tensor) -> Tensor:  # the loss of Taylor's importance, as there are no labels
        assert isinstance(context.task, Detection)
        return -context.task.decoder(output).scores.amax(2).sum(1)

    networks = {}
    for name, importance, everywhere in (("uniform", "magnitude", False), ("taylor", "taylor", True)):
        make = pruner(context, importance, global_pruning=everywhere, loss_of=scores, keep=keep)
        for budget in budgets:
            try:
                peer = search(context, name, make, budget, out / "peers")
            except Exception as error:  # whatever the library cannot prune
                print(f"{name} at {budget:g}x: {type(error).__name__}: {str(error)[:200]}", flush=True)
                continue
            networks[peer.name] = tuned(context, peer, out / "peers" / f"{peer.name}.pt")
    return networks


def tuned(context: RunContext, peer: Contender, checkpoint: Path) -> tuple[nn.Module, float]:
    measure(context, [peer])
    settings, group = context.recipe.finetuning, SingleProcess(context.recipe.compute.device)
    setup = TrainingSetup(
        teacher=context.teacher.module, data=context.data, task=context.task, settings=settings, group=group
    )
    finetune(peer.module, setup, checkpoint=checkpoint)
    return peer.module, peer.ratio


@click.command()
@click.argument("model")
@click.option("--weights")
@click.option("--decode", required=True)
@click.option("--fit", default="stretch", show_default=True)
@click.option("--photos", required=True, help="Photographs without labels, as --data has them.")
@click.option("--labelled", required=True, help="Images with boxes, as --data has them.")
@click.option("--budget", "budgets", multiple=True, default=("0.8x", "0.65x"), show_default=True)
@click.option("--set", "options", multiple=True, help="NAME=VALUE of the recipe, e.g. epochs=30; may be repeated.")
@click.option("--peers", is_flag=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/detection"), show_default=True)
def main(
    model: str, weights: str | None, decode: str, fit: str, photos: str, labelled: str, budgets: tuple[str, ...],
    options: tuple[str, ...], peers: bool, out: Path,
) -> None:  # fmt: skip
    given = dict(one.split("=", 1) for one in options)
    recipe = Recipe(model=model, weights=weights, data=photos, task="detection", decode=decode, fit=fit, **given)
    networks: dict[str, tuple[nn.Module, float]] = {}
    for budget in budgets:
        summary = lana.compress(recipe.replace(budget=budget), out=out)
        ratio = (summary.measured_ms or float("nan")) / summary.teacher_ms
        networks[f"lana {budget}"] = (lana.load_student(out / "students" / summary.student), ratio)
    with open_finished(out) as (context, *_):
        context = dataclasses.replace(context, recipe=recipe.replace(budget=budgets[0]))
        task = make_task("detection", context.teacher, decode)
        _, images = load_examples(labelled, context.teacher, task)
        if peers:
            networks |= pruned_networks(context, [float(budget.removesuffix("x")) for budget in budgets], out)
        rows = list(rows_of(context, images, networks))
    for row in rows:
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))
    (out / "detection.json").write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
