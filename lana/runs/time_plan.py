"""How long a run will take, estimated from a short trial, and how to fit it to the time that the user allows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lana.common.files import check_types, explain_damage, read_json, write_json
from lana.common.progress import counted, duration
from lana.config.recipe import Recipe, fingerprint
from lana.engines.choice import makespan, worker_count
from lana.errors import UserError
from lana.models.student import own_module
from lana.operations.presets import offered
from lana.runs.context import RunContext
from lana.runs.run import POOL, Run
from lana.runs.workers import one_thread

TRIAL_IMAGES = 32
UNITS_SHOWN = 12
MEASURE_S = 0.6  # an operation: building, exporting, measuring
SELECT_S = 60.0  # measuring the teacher, whole students in three rounds, and the delivered file
LEAST_SHARE = 0.02  # of distilling and fine-tuning; with less there is no point in beginning
STEPS_OF_LATENCY = 8  # operations trained a layer, about one per step (the paper: 2 a layer 79.40, 10 a layer 79.66)
STEPS_OF_A_SPAN = 4  # its members have operations of their own to go finer with


@dataclass(frozen=True, kw_only=True)
class UnitTimes:
    """Estimated seconds of units of work on one worker, which has one thread.

    An operation that is trained is taken to do half of its layer's work; a training step costs three forward passes.
    """

    pass_s: float  # the teacher on one image
    shares: Mapping[str, float]  # of a layer in the teacher's work
    distill_images: float
    score_images: int

    @classmethod
    def of(cls, context: RunContext) -> UnitTimes:
        scan, train, recipe = context.scan, len(context.data.train), context.recipe
        with one_thread():
            pass_s = teacher_pass_s(context)
        return cls(
            pass_s=pass_s,
            shares={layer.name: layer.macs / max(scan.total_macs, 1) for layer in (*scan.layers, *scan.spans)},
            distill_images=recipe.distilling.epochs * min(recipe.distilling.images, train),
            score_images=min(recipe.scoring.images, train),
        )

    def distill_s(self, layers: Sequence[str]) -> float:
        """The seconds of a group with an operation at each of these layers."""
        return self.distill_images * self.pass_s * (1 + 3 * 0.5 * sum(self.shares[layer] for layer in layers))

    def score_s(self, layers: Sequence[str]) -> float:
        return self.score_images * self.pass_s * 0.5 * (1 + len(layers))


@dataclass(frozen=True, kw_only=True)
class PlannedUnit:
    """A unit of work before the table is measured: `name` is its first layer."""

    stage: str
    name: str
    operations: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Seconds that each stage is expected to take; `units` are those of distilling and scoring, for `workers`."""

    layers: int
    spans: int
    operations: int
    profile_s: float
    distill_s: float
    score_s: float
    select_s: float
    finetune_s: float
    units: tuple[PlannedUnit, ...] = ()
    workers: int = 1

    @property
    def total_s(self) -> float:
        return self.profile_s + self.distill_s + self.score_s + self.select_s + self.finetune_s

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "units": [vars(unit) for unit in self.units], "total_s": self.total_s}

    def with_workers_s(self, workers: int) -> float:
        """Seconds of distilling and scoring by so many workers."""
        of_stages = [[unit.seconds for unit in self.units if unit.stage == stage] for stage in ("distill", "score")]
        return sum(makespan(seconds, workers) for seconds in of_stages)

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
            *(self._units_of(stage) for stage in ("distill", "score")),
            *(
                f"distilling and scoring by {counted(count, 'worker')}: {duration(self.with_workers_s(count))}"
                for count in sorted({1, 2, 4, 8, 16, self.workers})
                if count <= max(self.workers, len(self.units))
            ),
        ]

    def _units_of(self, stage: str) -> str:
        units = [unit for unit in self.units if unit.stage == stage]
        shown = ", ".join(f"{unit.name} {duration(unit.seconds)}" for unit in units[:UNITS_SHOWN])
        return f"{stage} in {counted(len(units), 'unit')}: {shown}{', …' * (len(units) > UNITS_SHOWN)}"


def teacher_pass_s(context: RunContext) -> float:
    """Seconds of the teacher on one image, on the recipe's device."""
    device, inputs = context.recipe.compute.device, context.teacher.example(TRIAL_IMAGES)
    inputs, module = inputs.to(device), context.teacher.module.to(device)
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    with torch.no_grad():
        module(inputs)
        synchronise()
        start_s = time.perf_counter()
        module(inputs)
        synchronise()
    context.teacher.module.cpu()
    return (time.perf_counter() - start_s) / TRIAL_IMAGES


def finetune_s(context: RunContext, recipe: Recipe) -> float:
    """Seconds of fine-tuning a student: a pass of the teacher a step, and three of a student of half its work."""
    return recipe.finetuning.epochs * len(context.data.train) * teacher_pass_s(context) * 2.5


def estimate(context: RunContext) -> Plan:
    """Time one pass of the teacher and scale.

    An operation kept for training is taken to do half of its layer's work, a student half of the teacher's.
    """
    teacher, scan, recipe = context.teacher, context.scan, context.recipe
    places = [*scan.layers, *scan.spans]
    candidates = {
        layer.name: offered(layer, own_module(teacher.module, layer), recipe.profiling.pool) for layer in places
    }
    most = {layer.name: STEPS_OF_LATENCY if len(layer.members) == 1 else STEPS_OF_A_SPAN for layer in places}
    counts = {name: min(len(candidates[name]), most[name]) for name in candidates}
    shapes = {(p.input_shape, p.output_shape, len(p.members)): len(candidates[p.name]) for p in places}
    units = planned_units(UnitTimes.of(context), counts, recipe.distilling.unit_operations)
    compute = recipe.compute
    workers = worker_count(compute.engine, [unit.seconds for unit in units], compute.workers, compute.device)
    of_stage = {s: [unit.seconds for unit in units if unit.stage == s] for s in ("distill", "score")}
    return Plan(
        layers=len(scan.layers),
        spans=len(scan.spans),
        operations=sum(len(names) for names in candidates.values()),
        profile_s=10 + MEASURE_S * sum(shapes.values()),
        distill_s=makespan(of_stage["distill"], workers),
        score_s=makespan(of_stage["score"], workers),
        select_s=SELECT_S,
        finetune_s=finetune_s(context, recipe),
        units=tuple(units),
        workers=workers,
    )


def planned_units(times: UnitTimes, counts: Mapping[str, int], unit_operations: int) -> list[PlannedUnit]:
    """The units of so many operations at each layer or span, as far as memory does not divide them further."""
    groups: list[list[str]] = []
    for layer, count in counts.items():
        if not groups or len(groups[-1]) >= unit_operations:
            groups.append([])
        groups[-1] += [layer] * count
    distill = [(group, times.distill_s(group)) for group in groups if group]
    score = [([layer] * count, times.score_s([layer] * count)) for layer, count in counts.items() if count]
    return [
        PlannedUnit(stage=stage, name=layers[0], operations=len(layers), seconds=round(seconds, 2))
        for stage, found in (("distill", distill), ("score", score))
        for layers, seconds in found
    ]


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
