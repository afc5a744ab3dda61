"""How long a run will take, estimated from a short trial, and how to fit it to the time that the user allows."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lana.common.files import check_types, explain_damage, read_json, write_json
from lana.common.progress import duration
from lana.config.recipe import Recipe, fingerprint
from lana.errors import UserError
from lana.models.student import own_module
from lana.operations.presets import offered
from lana.runs.context import RunContext
from lana.runs.run import POOL, Run

TRIAL_IMAGES = 32
MEASURE_S = 0.6  # an operation: building, exporting, measuring
SELECT_S = 60.0  # measuring the teacher, whole students in three rounds, and the delivered file
LEAST_SHARE = 0.02  # of distilling and fine-tuning; with less there is no point in beginning
STEPS_OF_LATENCY = 8  # operations trained a layer, about one per step (the paper: 2 a layer 79.40, 10 a layer 79.66)
STEPS_OF_A_SPAN = 4  # its members have operations of their own to go finer with


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Seconds that each stage is expected to take."""

    layers: int
    spans: int
    operations: int
    profile_s: float
    distill_s: float
    score_s: float
    select_s: float
    finetune_s: float

    @property
    def total_s(self) -> float:
        return self.profile_s + self.distill_s + self.score_s + self.select_s + self.finetune_s

    def to_json(self) -> dict[str, float]:
        return {**vars(self), "total_s": self.total_s}

    def lines(self) -> list[str]:
        places = f"{self.layers} layers" + (f" and {self.spans} spans" if self.spans else "")
        kept = min(self.operations, STEPS_OF_LATENCY * self.layers + STEPS_OF_A_SPAN * self.spans)
        return [
            f"profile   {self.operations} operations at {places}: {duration(self.profile_s)}",
            f"distill   {kept} of them: {duration(self.distill_s)}",
            f"score     {duration(self.score_s)}",
            f"select    {duration(self.select_s)}",
            f"finetune  {duration(self.finetune_s)}",
            f"total     {duration(self.total_s)}",
        ]


def estimate(context: RunContext) -> Plan:
    """Time one pass of the teacher and scale: a training step costs three forward passes of what is trained.

    An operation kept for training is taken to do half of its layer's work, a student half of the teacher's.
    """
    teacher, scan, data, recipe = context.teacher, context.scan, context.data, context.recipe
    places = [*scan.layers, *scan.spans]
    candidates = {
        layer.name: offered(layer, own_module(teacher.module, layer), recipe.profiling.pool) for layer in places
    }
    most = {layer.name: STEPS_OF_LATENCY if len(layer.members) == 1 else STEPS_OF_A_SPAN for layer in places}
    operations = sum(len(names) for names in candidates.values())
    shapes = {(p.input_shape, p.output_shape, len(p.members)): len(candidates[p.name]) for p in places}
    inputs = teacher.example(TRIAL_IMAGES).to(recipe.compute.device)
    module = teacher.module.to(recipe.compute.device)
    synchronise = torch.cuda.synchronize if recipe.compute.device.startswith("cuda") else lambda: None
    with torch.no_grad():
        module(inputs)
        synchronise()
        start_s = time.perf_counter()
        module(inputs)
        synchronise()
    pass_s = (time.perf_counter() - start_s) / TRIAL_IMAGES  # the teacher on one image
    teacher.module.cpu()
    share = {layer.name: layer.macs / max(scan.total_macs, 1) for layer in places}
    trained = sum(0.5 * min(len(candidates[name]), most[name]) * share[name] for name in candidates)
    scored = sum(min(len(candidates[name]), most[name]) for name in candidates)
    images = recipe.distilling.epochs * min(recipe.distilling.images, len(data.train))
    return Plan(
        layers=len(scan.layers),
        spans=len(scan.spans),
        operations=operations,
        profile_s=10 + MEASURE_S * sum(shapes.values()),
        distill_s=images * pass_s * (1 + 3 * trained),
        score_s=min(recipe.scoring.images, len(data.train)) * pass_s * scored * 0.5,
        select_s=SELECT_S,
        finetune_s=recipe.finetuning.epochs * len(data.train) * pass_s * 2.5,
    )


def fit_to_time(context: RunContext) -> Recipe:
    """The recipe with less distilling and fine-tuning where `max_minutes` asks for it; decided once for these options.

    A pool that is finished stays as it is: only what is left is fitted.

    Raises:
        UserError: what cannot be shortened takes longer than that.
    """
    run, path, done = context.run, context.run.path / "plan.json", context.run.stages()
    recipe = as_distilled(run, context.recipe) if "distill" in done else context.recipe
    if recipe.compute.max_minutes is None:
        if "distill" not in done:
            path.unlink(missing_ok=True)  # of an attempt that had less time, and got nowhere
        return recipe
    asked = fingerprint([run.parts(context.recipe, *POOL), recipe.finetuning.epochs, recipe.compute.max_minutes])
    kept = _kept(path)
    if kept.get("asked") != asked:
        plan = estimate(replace(context, recipe=recipe))
        left_s = {name: 0.0 if name in done else getattr(plan, f"{name}_s") for name in ("profile", "distill", "score")}
        fixed_s = left_s["profile"] + left_s["score"] + plan.select_s
        training_s = left_s["distill"] + plan.finetune_s
        share = (60 * recipe.compute.max_minutes - fixed_s) / max(training_s, 1e-9)
        if share < LEAST_SHARE:
            raise UserError(
                f"--max-minutes {recipe.compute.max_minutes:g} is too short: measuring, scoring and selecting alone "
                f"take about {duration(fixed_s)}, and training needs some on top. Allow at least "
                f"{(fixed_s + 0.1 * training_s) / 60:.1f} minutes, or take fewer layers (--layers)."
            )
        scale = min(1.0, share)
        distill_epochs = recipe.distilling.epochs * (1.0 if "distill" in done else scale)
        kept = {"distill_epochs": distill_epochs, "epochs": recipe.finetuning.epochs * scale, "asked": asked}
        write_json(path, kept)
    return recipe.replace(distill_epochs=kept["distill_epochs"], epochs=kept["epochs"])


def as_distilled(run: Run, recipe: Recipe) -> Recipe:
    """The recipe with as many epochs of distilling as the run's pool had, where time was short."""
    kept = _kept(run.path / "plan.json")
    return recipe.replace(distill_epochs=kept["distill_epochs"]) if kept else recipe


def _kept(path: Path) -> dict[str, Any]:
    """The plan that a run keeps; empty where it has none.

    Raises:
        UserError: the file is damaged.
    """
    kept: dict[str, Any] = read_json(path, {})
    with explain_damage(path):
        if kept:
            check_types(kept, {"distill_epochs": float, "epochs": float, "asked": str})
            Recipe(distill_epochs=kept["distill_epochs"], epochs=kept["epochs"])
        return kept
