"""The program's choice beside random selections of the same predicted latency, before any fine-tuning.

    python benchmarks/random_selections.py RUN --ratio 0.7 --ratio 0.5 --ratio 0.35 --count 100

RUN is a finished run, whose trained operations are used. Random selections take any operation at a layer, as long as
the rest still fits; they use 95% to 100% of the budget. The best of them is the one of highest metric on images of the
validation part; test is read for it and for the program's choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from lana import stages
from lana.data import Split
from lana.evaluation import evaluate_module
from lana.pipeline import open_finished
from lana.selection import Selection, Selector
from lana.wholes import replaced
from solvers import Limit, random_search

IMAGES = 1000  # of the validation part, that the best is found on
TRIES = 1000  # random selections a wanted one, most of which leave too much of the budget


def draw(selector: Selector, budget_ms: float, count: int, seed: int) -> list[Selection]:
    """Random selections with 95% to 100% of a predicted latency."""
    problem = selector.problem(budget_ms)
    upper = problem.limits["latency_ms"].upper or 0.0
    problem = dataclasses.replace(problem, limits={"latency_ms": Limit(lower=upper - 0.05 * budget_ms, upper=upper)})
    found: dict[tuple[int, ...], None] = {}

    def keep(chosen: Sequence[int]) -> float:
        found[tuple(chosen)] = None
        return 0.0

    for turn in range(TRIES):
        if len(found) >= count:
            break
        random_search(problem, tries=count, objective=keep, seed=seed + turn)
    offers = selector.offers
    return [replaced({offers[i].layer.name: offers[i].operation for i in one}) for one in list(found)[:count]]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", type=float, multiple=True, default=(0.7, 0.5, 0.35), show_default=True)
@click.option("--count", default=100, show_default=True)
def main(run: Path, ratios: tuple[float, ...], count: int) -> None:
    with open_finished(run) as (setting, baseline, selector):
        operations, recipe = stages.trained_operations(setting, selector.offers), setting.recipe
        validation = setting.data.validation.take(IMAGES, recipe.seed + 3)

        def metric(selection: Selection, split: Split) -> float:
            student = stages.assembled(setting, selector, selection, operations, IMAGES, recipe.precision)
            return evaluate_module(student, split, setting.task).metric

        print(f"teacher: {metric({}, setting.data.test):.2%} on test", flush=True)
        for ratio in ratios:
            budget_ms = ratio * baseline.teacher_ms
            selector.loss_log = selector.loss_log.replay(f"ranking {ratio:g}x")
            selector.correct_losses(budget_ms)
            choice = selector.choice(budget_ms)
            if choice is None:
                raise click.ClickException(f"no selection reaches {ratio:g}x")
            drawn = draw(selector, budget_ms, count, recipe.seed)
            found = [metric(selection, validation) for selection in drawn]
            best = drawn[int(np.argmax(found))]
            for told, selection in {"the program's choice": choice, f"best of {len(drawn)} random ones": best}.items():
                on_test, latency = metric(selection, setting.data.test), selector.predicted_ms(selection)
                print(f"{ratio:g}x, {told}: {on_test:.2%} on test, {latency / baseline.teacher_ms:.3f}x predicted")
            print(
                f"{ratio:g}x, random ones on validation: median {np.median(found):.2%}, best {max(found):.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
