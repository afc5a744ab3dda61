"""Several students of a run fine-tuned at once, each a unit of work of its own in one thread, or on one GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lana.config.recipe import Recipe, fingerprint
from lana.delivery.finetune import finetune_student
from lana.engines.choice import create_engine
from lana.engines.units import Report, Unit, map_units
from lana.runs.context import RunContext
from lana.runs.time_plan import finetune_s
from lana.runs.workers import LoadedRun, one_thread


@dataclass(frozen=True, kw_only=True)
class FinetuneWork:
    """Fine-tunes a student by its recipe's options, in the process of a worker."""

    run: LoadedRun
    replace_better: bool

    def __call__(self, student: tuple[str, dict[str, Any]], report: Report) -> None:
        name, options = student
        with one_thread():
            context = dataclasses.replace(self.run.context, recipe=Recipe(**options))
            folder = context.run.student(name)
            finetune_student(context, folder, replace_better=self.replace_better, on_share=report)


def finetune_students(
    context: RunContext, recipes: Sequence[tuple[Path, Recipe]], *, replace_better: bool = False
) -> None:
    """Fine-tune students, folder and recipe each; the engine is the context's."""
    units = [
        Unit(
            name=f"{folder.name[:60]}-{fingerprint([folder.name, recipe.finetuning.decisive])[:8]}",
            content=(folder.name, recipe.options),
            seconds=finetune_s(context, recipe),
        )
        for folder, recipe in recipes
    ]
    compute = context.recipe.compute
    engine = create_engine(
        compute.engine, units, workers=compute.workers, device=compute.device, shared=context.run.path.resolve()
    )
    work = FinetuneWork(run=LoadedRun(context), replace_better=replace_better)
    for _ in map_units(engine, work, units, context.run.path / "units" / "finetune", title="Fine-tuning students"):
        pass
