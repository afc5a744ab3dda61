"""The program's choice against random selections of the same predicted latency, before any fine-tuning.

    python benchmarks/random_selections.py RUN --ratio 0.7 --ratio 0.5 --ratio 0.35 --count 100

RUN is a finished run, whose trained operations are used. Random selections use 95% to 100% of the budget. The best of
them is the one of highest metric on images of the validation part; test is read for it and for the program's choice.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import numpy as np

from lana.data.split import Split
from lana.evaluation.metrics import evaluate_module
from lana.models.selection import Selection
from lana.pipeline import open_finished
from lana.selection.measurement import assembled
from lana.selection.program import SelectionModel
from lana.selection.sampling import sample

IMAGES = 1000  # of the validation part, that the best is found on


def draw(model: SelectionModel, budget_ms: float, count: int) -> list[Selection]:
    """Selections with 95% to 100% of a predicted latency: the program's for random losses, of one mean a layer."""
    blind = {candidate.pair: float(len(candidate.layer.members)) for candidate in model.candidates}
    ignorant = dataclasses.replace(model, scores=blind, correct_scores=False)
    return sample(ignorant, 0.975 * budget_ms, count, width_ratio=0.025, sigmas=(1.0,))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", type=float, multiple=True, default=(0.7, 0.5, 0.35), show_default=True)
@click.option("--count", default=100, show_default=True)
def main(run: Path, ratios: tuple[float, ...], count: int) -> None:
    with open_finished(run) as (context, baseline, pool, search):
        recipe = context.recipe
        validation = context.data.validation.subset(IMAGES, recipe.seed + 3)

        def metric(selection: Selection, split: Split) -> float:
            student = assembled(context, pool, selection, IMAGES, recipe.finetuning.precision)
            return evaluate_module(student, split, context.task).metric

        print(f"teacher: {evaluate_module(context.teacher.module, context.data.test, context.task).metric:.2%} on test")
        for ratio in ratios:
            budget_ms = ratio * baseline.teacher_ms
            search.begin(f"ranking {ratio:g}x")
            search.refine(budget_ms)
            choice = search.model.choice(budget_ms)
            if choice is None:
                raise click.ClickException(f"no selection reaches {ratio:g}x")
            drawn = draw(search.model, budget_ms, count)
            metrics = [metric(selection, validation) for selection in drawn]
            best = drawn[int(np.argmax(metrics))]
            for name, selection in {"the program's choice": choice, f"best of {len(drawn)} random ones": best}.items():
                on_test, latency = metric(selection, context.data.test), search.model.predicted_ms(selection)
                print(f"{ratio:g}x, {name}: {on_test:.2%} on test, {latency / baseline.teacher_ms:.3f}x predicted")
            print(
                f"{ratio:g}x, random ones on validation: median {np.median(metrics):.2%}, best {max(metrics):.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
