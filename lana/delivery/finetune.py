"""The stage that fine-tunes a student of a run."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from lana.common.console import figure
from lana.common.files import explain_damage, read_json, write_atomically, write_json, write_text
from lana.common.progress import Progress
from lana.config.options import FineTuning
from lana.delivery.summary import Summary
from lana.evaluation.metrics import evaluate_module
from lana.models.student_files import SELECTED, WEIGHTS, load_student_as_teacher, save_weights
from lana.runs.context import RunContext
from lana.training.distributed import DistributedGroup, SingleProcess, launched_rank
from lana.training.finetuning import TrainingSetup, finetune
from lana.training.launch import finetune_in_group

REFUSED = "refused.json"  # in a student's folder: tunings that were worse

logger = logging.getLogger(__name__)


def finetune_student(
    context: RunContext,
    folder: Path,
    *,
    replace_better: bool = False,
    on_share: Callable[[float], None] = lambda share: None,
) -> None:
    """Fine-tune the student in `folder`, as it was selected, in the recipe's number of processes.

    A student that was fine-tuned with these settings before stays as it is. A delivered student that is better on the
    test split stays too, unless `replace_better`.
    """
    recipe = context.recipe
    settings, done = recipe.finetuning, folder / "finetuned.json"
    refused = _refused(folder)
    if is_tuned(folder, settings, replace_better=replace_better):
        if settings.decisive in refused:
            logger.info(
                f"{folder.name} was tuned with these settings before, and was worse: the better one is kept. "
                "To replace it all the same, give lana finetune --replace-better."
            )
        return
    start_s = time.monotonic()
    if launched_rank() is not None:
        group = DistributedGroup(recipe.compute.device)
        train_student(context, folder, group, replace_better)
        group.leave()
    elif recipe.compute.processes > 1:
        finetune_in_group(folder, recipe, replace_better=replace_better)
    else:
        train_student(context, folder, SingleProcess(recipe.compute.device), replace_better, on_share)
    if (folder / "summary.json").is_file():  # training removes it with the weights that it replaces
        write_json(folder / REFUSED, [*(one for one in refused if one != settings.decisive), settings.decisive])
        (folder / "training.pt").unlink(missing_ok=True)
        return
    write_text(folder / "recipe.yaml", recipe.to_yaml(folder))
    write_json(done, {"settings": vars(settings), "seconds": round(time.monotonic() - start_s, 2)})
    (folder / "training.pt").unlink(missing_ok=True)


def _refused(folder: Path) -> list[dict[str, Any]]:
    """The settings that made the student worse than it is, as JSON holds them."""
    kept = read_json(folder / REFUSED, [])
    with explain_damage(folder / REFUSED):
        return [FineTuning(**settings).decisive for settings in kept]


def is_tuned(folder: Path, settings: FineTuning, *, replace_better: bool = False) -> bool:
    """True if there is nothing to do: the student was fine-tuned with these settings, or was better than by them."""
    done, refused = folder / "finetuned.json", settings.decisive in _refused(folder) and not replace_better
    if not settings.epochs or (done.is_file() and _settings_in(done).decisive == settings.decisive):
        return True
    return refused and (folder / "summary.json").is_file()


def _settings_in(done: Path) -> FineTuning:
    kept = read_json(done)
    with explain_damage(done):
        kept["settings"].pop("device", None)  # earlier runs keep it among the settings
        return FineTuning(**kept["settings"])


def metric_before(folder: Path) -> float | None:
    """The accuracy of the student when it was last delivered."""
    path = folder / "summary.json"
    return Summary.read(path).student_accuracy if path.is_file() else None


def train_student(
    context: RunContext,
    folder: Path,
    group: SingleProcess,
    replace_better: bool = False,
    on_share: Callable[[float], None] = lambda share: None,
) -> None:
    """Do this process's part of fine-tuning; the main process replaces the weights at the end and writes the curve."""
    student = load_student_as_teacher(folder, SELECTED).module
    start = copy.deepcopy(student.state_dict())
    with Progress(f"Fine-tuning {folder.name}") as progress:

        def on_progress(share: float, detail: str) -> None:
            progress.update(share, detail)
            on_share(share)

        setup = TrainingSetup(
            teacher=context.teacher.module,
            data=context.data,
            task=context.task,
            settings=context.recipe.finetuning,
            group=group,
            cached_outputs=context.run.pool / "teacher_outputs",
        )
        curve = finetune(student, setup, checkpoint=folder / "training.pt", on_progress=on_progress)
    if group.is_main and all(torch.equal(tensor, start[name]) for name, tensor in student.state_dict().items()):
        logger.info(f"No epoch reached the metric of {folder.name}: it stays as selected. Give more --epochs.")
    if group.is_main and (replace_better or not _is_worse(context, folder, student)):
        frame = pd.DataFrame([vars(row) for row in curve])
        write_atomically(folder / "training.csv", lambda temporary: frame.to_csv(temporary, index=False))
        for file in ("summary.json", "finetuned.json", REFUSED):  # of the network before: never next to the new weights
            (folder / file).unlink(missing_ok=True)
        save_weights(student, folder / WEIGHTS)


def _is_worse(context: RunContext, folder: Path, student: nn.Module) -> bool:
    """True if the student in `folder` was delivered with a better metric than this one; it is then reported."""
    before = metric_before(folder)
    if before is None:
        return False
    device = context.recipe.compute.device
    metric = evaluate_module(student, context.data.test, context.task, device=device).metric
    if metric >= before:
        return False
    logger.info(
        f"This tuning gives {folder.name} {context.task.metric_name} {figure(metric)}, and it had {figure(before)}: "
        "the better one is kept. Give more --epochs; to replace it all the same, give lana finetune --replace-better."
    )
    return True
