"""The stages up to a scored pool: each reads, computes and writes in the run directory."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import lana.pool.distillation as distilling
import lana.pool.scoring as scoring
from lana.common.files import missing_rows, write_text
from lana.common.progress import counted
from lana.config.recipe import fingerprint
from lana.models.selection import Pair
from lana.models.student import build_operation
from lana.networks.layers import Layer
from lana.pool.candidates import (
    Candidate,
    pairs,
    read_candidates,
    unique_layers,
    write_candidates,
)
from lana.pool.parallel import distill_in_units, make_scorer, score_in_units
from lana.pool.profiling import Profiling
from lana.runs.context import RunContext
from lana.runs.run import POOL
from profilers.library import search_path

logger = logging.getLogger(__name__)

Operations = Mapping[Pair, nn.Module]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """A finished pool: the candidates that may be chosen, their trained operations, and the loss expected of each.

    The `saturation` is the loss of a network that ignores its input.
    """

    candidates: Sequence[Candidate]
    operations: Operations
    scores: Mapping[Pair, float]
    saturation: float = math.inf

    @property
    def layers(self) -> list[Layer]:
        return unique_layers(self.candidates)


def make_pool(context: RunContext) -> Pool:
    """Profile, distil and score: everything that is shared by all students of the run."""
    candidates, operations = distill_pool(context, profile_pool(context))
    scores = score_pool(context, candidates)
    kept = [candidate for candidate in candidates if candidate.kept and candidate.pair in scores]
    limit = scoring.saturation(scoring.read_scores(context.run.scores))
    return Pool(candidates=kept, operations=operations, scores=scores, saturation=limit)


def profile_pool(context: RunContext) -> list[Candidate]:
    """The pool with measured latencies, in `pool/candidates.csv`; the table in `pool/table.csv`."""
    run, recipe = context.run, context.recipe
    path, stage_key = run.pool / "candidates.csv", fingerprint(run.parts(recipe, "teacher", "profile"))
    if not run.finished("profile", stage_key) or _is_lacking(path):
        with run.stage("profile", stage_key):
            folder = run.pool / "computations"
            profiling = Profiling(
                context.teacher,
                context.scan,
                recipe.profiling,
                table=run.table,
                folder=folder,
                libraries=search_path(),
            )
            write_candidates(path, profiling.candidates()[0])
            shutil.rmtree(folder, ignore_errors=True)
    return read_candidates(path)


def distill_pool(context: RunContext, candidates: Sequence[Candidate]) -> tuple[list[Candidate], Operations]:
    """Train every kept operation on its layer's outputs; weights under `pool/operations/`.

    Operations that distilling dropped are not kept; their reason is recorded.
    """
    run, recipe, pool = context.run, context.recipe, pairs(candidates, trainable_only=True)
    folder, how = run.pool / "operations", run.parts(recipe, *POOL[:3])
    stage_key = fingerprint([how, [(p[0].name, p[1]) for p in pool]])
    finished = run.finished("distill", stage_key)
    if not finished or _lacks(folder, pool, distilling.whole_results(folder)):
        _begin_alike(folder, fingerprint([how]))
        with run.stage("distill", stage_key):
            distill_in_units(context, pool, candidates, folder)
    given_up = {pair: found.dropped for pair, found in distilling.read_results(folder).items() if found.dropped}
    candidates = [
        dataclasses.replace(candidate, kept=False, reason=given_up[candidate.base])
        if candidate.base in given_up and candidate.kept
        else candidate
        for candidate in candidates
    ]
    identities = [(layer, name) for layer, name in pairs(candidates) if name == "identity"]
    plain = {(layer.name, name): build_operation(layer, context.teacher.module, name) for layer, name in identities}
    trained = distilling.load_pool(context.teacher.module, pairs(candidates, trainable_only=True), folder)
    return candidates, {**plain, **trained}


def _is_lacking(path: Path) -> bool:
    """True if a finished file lost rows, or is gone; it is told, since the stage is done again then."""
    lost = missing_rows(path) if path.is_file() else "all rows"
    if lost:
        logger.warning("%s lacks %s. The stage that writes it is done again; what was measured is kept.", path, lost)
    return bool(lost)


def _lacks(path: Path, pool: Sequence[tuple[Layer, str]], held: Collection[Pair]) -> bool:
    """True if a finished stage lacks some of the pool; they are told, since the stage does them again."""
    lost = [f"{name} at {layer.name}" for layer, name in pool if (layer.name, name) not in held]
    if lost:
        some = ", ".join(lost[:5]) + (" …" if lost[5:] else "")
        logger.warning("%s lacks %s. The stage does them again.", path, some)
    return bool(lost)


def _begin_alike(folder: Path, how: str) -> None:
    """Operations that an interrupted attempt trained otherwise (`--max-minutes` shortens) would compare falsely."""
    kept = folder / "made-with.txt"
    if kept.is_file() and kept.read_text() != how:
        shutil.rmtree(folder)
    write_text(kept, how)


def score_pool(context: RunContext, candidates: Sequence[Candidate]) -> dict[Pair, float]:
    """Score each operation by the network's expected loss with it, in `pool/scores.csv`."""
    run, recipe, pool = context.run, context.recipe, pairs(candidates)
    stage_key = fingerprint([run.parts(recipe, *POOL), [(layer.name, name) for layer, name in pool]])
    held = scoring.scored(run.scores)
    if not run.finished("score", stage_key) or _lacks(run.scores, pool, held) or _is_lacking(run.scores):
        with run.stage("score", stage_key):
            score_in_units(context, pool, run.pool / "operations", run.scores)
            scoring.add_scores(run.scores, [make_scorer(context).constant()])
    scores = scoring.read_scores(run.scores)
    _tell_saturated(scores)
    return scoring.losses_of(scores, recipe.selecting.score_by)


def _tell_saturated(scores: Sequence[scoring.Score]) -> None:
    limit = scoring.saturation(scores)
    names = [f"{row.operation} at {row.layer}" for row in scores if row.score >= limit and row.pair != scoring.CONSTANT]
    if names:
        logger.info(
            f"{counted(len(names), 'operation')} left out, with which the network is as far from the teacher as "
            f"one that ignores its input: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}."
        )
