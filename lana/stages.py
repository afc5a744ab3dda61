"""The stages of `lana.pipeline` up to a scored pool: what each reads, does and writes in the run directory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lana.distill as distilling
import lana.scoring as scoring
from lana.ascending import measure_ascending
from lana.errors import UserError
from lana.evaluation import check_teacher, evaluate_module
from lana.export import onnx_parity, to_computation
from lana.forms import TOLERANCE
from lana.layers import Layer, LayerScan
from lana.operations import Operation
from lana.profiling import (
    Builder,
    Offer,
    keep_promising,
    pairs,
    planned_offers,
    read_offers,
    with_latencies,
    write_offers,
)
from lana.progress import Progress
from lana.recipe import Recipe, fingerprint
from lana.run import POOL, write_json, write_text
from lana.setting import Setting
from lana.student import build_operation
from lana.teacher import Teacher
from lana.wholes import PROCESSES
from profilers import Computation, LatencyTable, RuntimeSettings, compare, create_runtime
from profilers import profile as measure_table
from profilers.library import search_path
from profilers.sweep import device_of
from profilers.table_file import read_begun

PARITY_IMAGES, PARITY_S = 64, 3.0  # on which a file is compared with its network, and for how long at most


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The teacher's figures, frozen once per run: its metric on the test split, its latency in milliseconds.

    `digest` is of its weights and of the labels, which a reference does not tell.
    """

    metric: float
    examples: int
    teacher_ms: float
    runtime_versions: Mapping[str, str]
    digest: str = ""

    def budget_ms(self, recipe: Recipe) -> float:
        ratio = recipe.budget_ratio
        return ratio * self.teacher_ms if ratio is not None else recipe.budget_ms or 0.0


def baseline(setting: Setting) -> Baseline:
    """Evaluate and measure the teacher, once per run.

    Raises:
        UserError: its metric is that of a guess; behind the same references there are other weights or data now.
    """
    run, recipe, teacher = setting.run, setting.recipe, setting.teacher
    path, wanted = run.pool / "teacher.json", fingerprint(run.parts(recipe, "teacher", "profile"))
    now = digest(setting)
    if not run.finished("teacher", wanted):
        runtime = create_runtime(recipe.runtime, setting.runtime_settings)  # not installed? then say so at once
        with run.stage("teacher", wanted):
            evaluation = evaluate_module(teacher.module, setting.data.test, setting.task, device=recipe.device)
            check_teacher(evaluation, teacher, setting.data, setting.task)
            shutil.rmtree(run.pool / "wholes", ignore_errors=True)  # of other weights, where this was begun with them
            itself = teacher_computation(setting)
            if itself.form == "onnx":
                check_file(setting, itself.file)
            reference = compare(
                itself,
                [itself],
                runtime=recipe.runtime,
                settings=setting.runtime_settings,
                processes=PROCESSES,
            )[0]
            found = Baseline(
                metric=evaluation.metric,
                examples=evaluation.examples,
                teacher_ms=statistics.median(reference.reference_ms),
                runtime_versions=runtime.versions(),
                digest=now,
            )
            write_json(path, vars(found))
    kept = Baseline(**json.loads(path.read_text()))
    if kept.digest not in ("", now):
        raise UserError(
            f"The run directory {run.path} was made with other weights of {recipe.model} or other examples of "
            f"{recipe.data} than there are now. Give another --out, or put back what was there."
        )
    _tell_other_device(setting)
    return kept


def _tell_other_device(setting: Setting) -> None:
    """Say so where the run was measured on another machine: what was distilled is good here, what was measured not."""
    begun = read_begun(setting.run.table)
    here = device_of(create_runtime(setting.recipe.runtime, setting.runtime_settings))
    if begun is not None and begun.device != here:
        setting.tell(
            f"The latencies of {setting.run.path} were measured on {begun.device}, and this is {here}: its budgets "
            "hold there. For one of this machine begin another run (--out), or give lana select its table (--table)."
        )


def examples(setting: Setting) -> Iterator[Tensor]:
    """Inputs of the recipe's batch, on which a file must compute what its network does: random ones, then real ones."""
    batch = setting.recipe.batch
    yield setting.teacher.example(batch)
    real = setting.data.test.take(max(PARITY_IMAGES, batch), setting.recipe.seed).batches(batch)
    yield from (inputs for inputs, _ in real if len(inputs) == batch)


def check_file(setting: Setting, file: Path) -> None:
    """Refuse a network that decides by values what it computes: a file holds one of its ways."""
    error = onnx_parity(setting.teacher.module, file, examples(setting), limit_s=PARITY_S)
    if not error <= TOLERANCE:
        raise UserError(
            f"The ONNX file of {setting.recipe.model} gives other outputs on real examples than PyTorch does (by "
            f"{error:.1e} of the largest): its forward branches on values, or draws random numbers, and a file holds "
            "one way. Write it without that, e.g. with torch.where."
        )


def digest(setting: Setting) -> str:
    """Of the teacher's weights and of the labels, in order."""
    found = hashlib.sha256()
    for name, tensor in setting.teacher.module.state_dict().items():
        found.update(name.encode())
        if isinstance(tensor, Tensor):  # a module may keep more than tensors
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for split in (setting.data.train, setting.data.validation, setting.data.test):
        found.update(f"{len(split)}".encode())
        if split.labels is not None:
            found.update(np.ascontiguousarray(split.labels).data)
    return found.hexdigest()[:16]


def teacher_computation(setting: Setting) -> Computation:
    example = setting.teacher.example(setting.recipe.batch)
    form = runtime_form(setting.recipe.runtime, setting.runtime_settings)
    return to_computation(setting.teacher.module, example, setting.run.pool / "wholes", name="teacher", form=form)


def runtime_form(runtime: str, settings: RuntimeSettings) -> str:
    return create_runtime(runtime, settings).form


def profile(setting: Setting) -> list[Offer]:
    """The pool with measured latencies, in `pool/offers.csv`; the table in `pool/table.csv`."""
    run, recipe = setting.run, setting.recipe
    path, wanted = run.pool / "offers.csv", fingerprint(run.parts(recipe, "teacher", "profile"))
    if not run.finished("profile", wanted):
        with run.stage("profile", wanted):
            folder, libraries = run.pool / "computations", search_path()
            offers, table = measured_offers(
                run.table, folder, setting.teacher, setting.scan, recipe, libraries, quiet=setting.quiet
            )
            write_offers(path, keep_promising(with_latencies(offers, table)))
            shutil.rmtree(folder, ignore_errors=True)
    return read_offers(path)


def measured_offers(
    table: Path,
    folder: Path,
    teacher: Teacher,
    scan: LayerScan,
    recipe: Recipe,
    libraries: Sequence[Path],
    *,
    quiet: bool = False,
) -> tuple[list[Offer], LatencyTable]:
    """The pool, and its latency table in the file `table`; rows that one of the `libraries` holds are taken from it."""
    settings = recipe.runtime_settings
    form = runtime_form(recipe.runtime, settings)
    builder = Builder(teacher, batch=recipe.batch, folder=folder, form=form)
    planned = planned_offers(teacher, scan, recipe.pool)
    with Progress(f"Building and measuring {len(planned)} operations", len(planned), quiet=quiet) as progress:
        built = measured = 0

        def build(layer: Layer, operation: Operation) -> Offer:
            nonlocal built
            built += 1
            progress.update((built + measured) / 2, operation.name)
            return builder.offer(layer, operation)

        def measure(wave: Sequence[Offer]) -> LatencyTable:
            nonlocal measured
            computations = [builder.computations[key] for key in dict.fromkeys(offer.key for offer in wave)]
            found = measure_table(
                computations,
                runtime=recipe.runtime,
                settings=settings,
                table=table,
                libraries=libraries,
                progress=lambda state: progress.update((built + measured + state.done) / 2, state.name),
            )
            measured = built
            return found

        return measure_ascending(planned, build, measure)


Operations = dict[tuple[str, str], nn.Module]
Pairs = Sequence[tuple[Layer, str]]
OnProgress = Callable[[float, str], None]


def distill(setting: Setting, offers: Sequence[Offer]) -> tuple[list[Offer], Operations]:
    """Every kept operation, trained to imitate its layer; weights under `pool/operations/`.

    Those that distilling gave up are not kept, with the reason.
    """
    run, recipe, pool = setting.run, setting.recipe, pairs(offers, trainable_only=True)
    folder, how = run.pool / "operations", run.parts(recipe, *POOL[:3])
    wanted = fingerprint([how, [(p[0].name, p[1]) for p in pool]])
    if not run.finished("distill", wanted):
        _begin_alike(folder, fingerprint([how]))
        with (
            run.stage("distill", wanted),
            Progress(f"Distilling {len(pool)} operations", 1, quiet=setting.quiet) as progress,
        ):
            train_operations(setting, pool, offers, recipe, folder, progress.update)
    given_up = {pair: found.dropped for pair, found in distilling.read_results(folder).items() if found.dropped}
    offers = [
        dataclasses.replace(offer, kept=False, reason=given_up[offer.layer.name, offer.operation])
        if (offer.layer.name, offer.operation) in given_up and offer.kept
        else offer
        for offer in offers
    ]
    identities = [(layer, name) for layer, name in pairs(offers) if name == "identity"]
    plain = {(layer.name, name): build_operation(layer, setting.teacher.module, name) for layer, name in identities}
    trained = distilling.load_pool(setting.teacher.module, pairs(offers, trainable_only=True), folder)
    return offers, {**plain, **trained}


def _begin_alike(folder: Path, how: str) -> None:
    """Operations that an interrupted attempt trained otherwise (`--max-minutes` shortens) would compare falsely."""
    kept = folder / "made-with.txt"
    if kept.is_file() and kept.read_text() != how:
        shutil.rmtree(folder)
    write_text(kept, how)


def train_operations(
    setting: Setting, pool: Pairs, offers: Sequence[Offer], recipe: Recipe, folder: Path, on_progress: OnProgress
) -> None:
    """Distil a part of the pool as the recipe says, into `folder`."""
    distilling.distill(
        setting.teacher.module,
        pool,
        setting.data,
        folder,
        latency_ms={(offer.layer.name, offer.operation): offer.latency_ms for offer in offers if offer.kept},
        epochs=recipe.distill_epochs,
        images=recipe.distill_images,
        batch_size=recipe.distill_batch,
        seed=recipe.seed,
        device=recipe.device,
        precision=recipe.precision,
        on_progress=on_progress,
    )


def score(setting: Setting, offers: Sequence[Offer], operations: Operations) -> dict[tuple[str, str], float]:
    """What the network is expected to lose with each operation, in `pool/scores.csv`."""
    run, recipe, pool = setting.run, setting.recipe, pairs(offers)
    wanted = fingerprint([run.parts(recipe, *POOL), [(layer.name, name) for layer, name in pool]])
    if not run.finished("score", wanted):
        with run.stage("score", wanted), Progress("Scoring", 1, quiet=setting.quiet) as progress:
            score_operations(setting, pool, operations, recipe, run.scores, progress.update)
    return scoring.losses_of(scoring.read_scores(run.scores), recipe.score_by)


def score_operations(
    setting: Setting, pool: Pairs, operations: Operations, recipe: Recipe, path: Path, on_progress: OnProgress
) -> None:
    """Score a part of the pool as the recipe says, into the file `path`."""
    scoring.score(
        setting.teacher.module,
        pool,
        operations,
        setting.data.train.take(recipe.score_images, recipe.seed),
        setting.task,
        path=path,
        device=recipe.device,
        precision=recipe.precision,
        on_progress=on_progress,
    )
