"""The last stages of `lana.pipeline`: a student is fine-tuned, exported and measured once more."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

import lana.finetuning as finetuning
from lana import selecting, stages
from lana.card import write_card
from lana.evaluation import evaluate_module
from lana.export import ExportFailed, export_onnx, export_program, onnx_parity, to_computation
from lana.forms import check_parity
from lana.recipe import FINETUNING, Recipe
from lana.run import write, write_json, write_text
from lana.setting import Setting
from lana.student import SELECTED, WEIGHTS, count_parameters, load_student_as_teacher, save_weights
from lana.summary import Summary, summarise
from lana.team import Alone
from lana.teammate import fine_tune_together
from lana.wholes import PROCESSES, Log, replaced

MORE_MEASUREMENTS = 6  # of the delivered file, where noise hides whether it is within the budget


def finetune(setting: Setting, folder: Path, recipe: Recipe) -> None:
    """Fine-tune the student in `folder`, as it was selected, in as many processes as the recipe says.

    One that was fine-tuned with these settings already is left as it is.
    """
    settings, done = settings_of(recipe), folder / "finetuned.json"
    before = json.loads(done.read_text())["settings"] if done.is_file() else None
    if not recipe.epochs or (before is not None and finetuning.FineTuning(**before).decisive == settings.decisive):
        return
    start_s = time.monotonic()
    if recipe.processes > 1:
        fine_tune_together(folder, recipe, quiet=setting.quiet)
    else:
        train(setting, folder, recipe, Alone(recipe.device))
    write_text(folder / "recipe.yaml", recipe.to_yaml(folder))
    write_json(done, {"settings": vars(settings), "seconds": round(time.monotonic() - start_s, 2)})
    (folder / "training.pt").unlink(missing_ok=True)


def metric_before(folder: Path) -> float | None:
    """What the student had when it was delivered last."""
    path = folder / "summary.json"
    return Summary.read(path).student_accuracy if path.is_file() else None


def settings_of(recipe: Recipe) -> finetuning.FineTuning:
    options = {name: getattr(recipe, name) for name in FINETUNING}
    return finetuning.FineTuning(**options, seed=recipe.seed, device=recipe.device)


def train(setting: Setting, folder: Path, recipe: Recipe, team: Alone) -> None:
    """This process's part in fine-tuning; the first replaces the weights when it is finished, and keeps the curve."""
    student = load_student_as_teacher(folder, SELECTED).module
    start = copy.deepcopy(student.state_dict())
    with setting.progress(f"Fine-tuning {folder.name}") as progress:
        curve = finetuning.finetune(
            student,
            setting.teacher.module,
            setting.data,
            setting.task,
            settings_of(recipe),
            checkpoint=folder / "training.pt",
            expected=setting.run.pool / "expected",
            team=team,
            on_progress=progress.update,
        )
    if team.first and all(torch.equal(tensor, start[name]) for name, tensor in student.state_dict().items()):
        setting.tell(f"No epoch came near what {folder.name} had before: it stays as selected. Give more --epochs.")
    if team.first:
        frame = pd.DataFrame([vars(row) for row in curve])
        write(folder / "training.csv", lambda beside: frame.to_csv(beside, index=False))
        for file in ("summary.json", "finetuned.json"):  # of the network before: never beside the new weights
            (folder / file).unlink(missing_ok=True)
        save_weights(student, folder / WEIGHTS)


def deliver(
    setting: Setting,
    baseline: stages.Baseline,
    folder: Path,
    recipe: Recipe,
    *,
    verify: bool = True,
) -> Summary:
    """Export the student, measure the exported file in fresh processes beside the teacher, and write `summary.json`.

    Where noise hides whether it is within the budget, it is measured again and the measurements are pooled.
    """
    if (folder / "summary.json").is_file():
        return Summary.read(folder / "summary.json")
    start_s, student = time.monotonic(), load_student_as_teacher(folder).module
    example = setting.teacher.example(recipe.batch)
    form, parity, measured = stages.runtime_form(recipe.runtime, setting.runtime_settings), None, None
    delivered = to_computation(student, example, folder, name=folder.name, form=form, stem="model")
    # What the runtime runs must be there; beside it, a form that the network cannot take is not missed.
    beside: Callable[..., Path] = export_program if form == "onnx" else export_onnx
    if verify or form != "onnx":  # seconds that a quick look should not take; `lana export` writes it at any time
        try:
            beside(student, example, folder / ("model.pt2" if form == "onnx" else "model.onnx"))
        except ExportFailed as error:
            setting.tell(f"{folder.name} is delivered in one form less: {error}")
    if (file := folder / "model.onnx").is_file():
        try:
            parity = onnx_parity(student, file, stages.examples(setting), limit_s=stages.PARITY_S)
            whole = f"The student itself is whole, in {folder / WEIGHTS}; another form may fit it (`lana export`)."
            check_parity(file, parity, whole)
        except Exception as error:  # ONNX Runtime's own are of many kinds
            if form == "onnx":
                raise
            file.unlink()
            parity = None
            setting.tell(f"{folder.name} is delivered in one form less: {error}")
    if verify:
        chosen, log = json.loads((folder / "selection.json").read_text()), Log(folder / "measurements.csv")
        limit = baseline.budget_ms(recipe) / baseline.teacher_ms if chosen.get("max_loss") is None else math.inf
        selection = replaced(chosen["selection"])
        for _ in range(MORE_MEASUREMENTS):
            with setting.progress("Measuring the delivered file") as progress:
                log.add([selection], selecting.compared(setting, [delivered], PROCESSES))
                progress.update(1)
            measured = log.of(selection)
            if measured is not None and measured.ratio_upper95 <= limit:
                break
    metric = evaluate_module(student, setting.data.test, setting.task, device=recipe.device).metric
    summary = summarise(
        setting,
        baseline,
        folder,
        recipe,
        measured=measured,
        metric=metric,
        parameters=count_parameters(student),
        parity=parity,
        seconds=round(time.monotonic() - start_s, 2),
    )
    write_card(folder, summary)
    write_json(folder / "summary.json", asdict(summary))  # last: with it the student is delivered
    return summary
