"""Distilling and scoring in units, which any worker can do: a value depends on nothing but the run and the unit.

A unit of distilling is a group of operations, trained with one pass of the teacher a step; a unit of scoring a layer.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lana.config.recipe import fingerprint
from lana.engines.choice import create_engine
from lana.engines.units import Report, Unit, Work, map_units
from lana.models.selection import Pair
from lana.models.student import build_operation
from lana.networks.layers import Layer
from lana.networks.mixed_precision import Compute
from lana.operations.families import split_precision
from lana.pool import distillation, scoring
from lana.pool.block_training import Distillation
from lana.pool.candidates import Candidate, is_trained
from lana.pool.int8_operations import RANGE_IMAGES, OperationQuantizer
from lana.runs.context import RunContext
from lana.runs.run import POOL
from lana.runs.time_plan import UnitTimes
from lana.runs.workers import LoadedRun, one_thread

Pairs = Sequence[tuple[Layer, str]]


@dataclass(frozen=True, kw_only=True)
class DistillWork:
    """Trains a group of operations, in the process of a worker; the weights are files of the run."""

    run: LoadedRun
    folder: Path
    latency_ms: Mapping[Pair, float]

    def __call__(self, group: Pairs, report: Report) -> list[dict[str, Any]]:
        with one_thread():
            context = self.run.context
            results = distillation.distill_group(
                context.teacher.module,
                group,
                context.data,
                self.folder,
                distillation_settings(context),
                latency_ms=self.latency_ms,
                on_share=report,
            )
        return [vars(result) for result in results]


@dataclass(frozen=True, kw_only=True)
class ScoreWork:
    """Scores the operations at a layer, in the process of a worker."""

    run: LoadedRun
    folder: Path
    layers: Sequence[Layer]

    def __call__(self, group: Pairs, report: Report) -> list[dict[str, Any]]:
        layer, names = group[0][0], [name for _, name in group]
        bases = dict.fromkeys(split_precision(name)[0] for name in names)  # int8 operations have the weights of fp32
        trained = [(layer, name) for name in bases if is_trained(name)]
        with one_thread():
            context, teacher = self.run.context, self.run.context.teacher.module
            untrained = ["identity"] if "identity" in bases else []
            plain = {(layer.name, name): build_operation(layer, teacher, name) for name in untrained}
            operations = {**plain, **distillation.load_pool(teacher, trained, self.folder)}
            scores = make_scorer(context).score_layer(self.layers, layer, names, operations)
        return [vars(score) for score in scores]


def distill_in_units(context: RunContext, pool: Pairs, candidates: Sequence[Candidate], folder: Path) -> None:
    """Distil the pool by the recipe, into `folder`; operations that are finished there are not trained again."""
    done, settings = distillation.whole_results(folder), distillation_settings(context)
    groups = distillation.groups_of(context.teacher.module, pool, settings)
    work = DistillWork(
        run=LoadedRun(context),
        folder=folder.resolve(),
        latency_ms={candidate.pair: candidate.latency_ms for candidate in candidates if candidate.kept},
    )
    for value in _mapped(context, "distill", work, _without(groups, done), f"Distilling {len(pool)} operations"):
        distillation.add_results(folder, [distillation.Distilled(**fields) for fields in value])


def score_in_units(context: RunContext, pool: Pairs, folder: Path, path: Path) -> None:
    """Score the pool by the recipe into the file `path`; the operations are those of `folder`."""
    done = scoring.scored(path)
    layers = list({layer.name: layer for layer, _ in pool}.values())
    groups = [[(layer, name) for layer, name in pool if layer.name == place.name] for place in layers]
    work = ScoreWork(run=LoadedRun(context), folder=folder.resolve(), layers=layers)
    for value in _mapped(context, "score", work, _without(groups, done), "Scoring"):
        scoring.add_scores(path, [scoring.Score(**fields) for fields in value])


def _without(groups: Sequence[Pairs], done: Container[Pair]) -> list[list[tuple[Layer, str]]]:
    """Groups without the operations that are done; those of which nothing is left are left out."""
    open_ = [[(layer, name) for layer, name in group if (layer.name, name) not in done] for group in groups]
    return [group for group in open_ if group]


def _mapped(context: RunContext, stage: str, work: Work, groups: Sequence[Pairs], title: str) -> Iterator[Any]:
    """The values of groups of operations, as the recipe's engine gives them."""
    if not groups:
        return
    how, compute = context.run.parts(context.recipe, *POOL[: POOL.index(stage) + 1]), context.recipe.compute
    times = UnitTimes.of(context)
    seconds = times.distill_s if stage == "distill" else times.score_s
    units = [
        Unit(
            name=f"{_plain(group[0][0].name)}-{len(group)}-{fingerprint([how, distillation.digest_of(group)])[:8]}",
            content=list(group),
            seconds=seconds([layer.name for layer, _ in group]),
        )
        for group in groups
    ]
    engine = create_engine(
        compute.engine, units, workers=compute.workers, device=compute.device, shared=context.run.path.resolve()
    )
    for _, value in map_units(engine, work, units, context.run.path / "units" / stage, title=title):
        yield value


def _plain(name: str) -> str:
    """A layer's name, or a span's first one, in the name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name.split("+")[0])[:60]


def distillation_settings(context: RunContext) -> Distillation:
    recipe = context.recipe
    return Distillation(
        epochs=recipe.distilling.epochs,
        images=recipe.distilling.images,
        batch_size=recipe.distilling.batch_size,
        seed=recipe.seed,
        group_operations=recipe.distilling.unit_operations,
        group_bytes=int(recipe.distilling.unit_memory * 2**30),
        compute=Compute(recipe.compute.device, recipe.finetuning.precision),
    )


def make_scorer(context: RunContext) -> scoring.Scorer:
    recipe, quantizer = context.recipe, None
    if context.scheme is not None:
        quantizer = OperationQuantizer(
            teacher=context.teacher.module,
            split=context.data.train.subset(RANGE_IMAGES, recipe.seed + 4),
            scheme=context.scheme,
            batch=recipe.profiling.batch,
        )
    return scoring.Scorer(
        teacher=context.teacher.module,
        split=context.data.train.subset(recipe.scoring.images, recipe.seed),
        task=context.task,
        compute=Compute(recipe.compute.device, recipe.finetuning.precision),
        quantizer=quantizer,
    )
