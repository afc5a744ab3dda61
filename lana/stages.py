"""The stages of `lana.pipeline` up to a selected student: what each reads, does and writes in the run directory."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

import lana.distill as distilling
import lana.scoring as scoring
from lana.ascending import measure_ascending
from lana.batchnorm import reestimate_batchnorm
from lana.errors import LanaError, UserError
from lana.evaluation import DistanceToTeacher, check_teacher, evaluate_module
from lana.export import to_computation
from lana.layers import Layer, LayerScan
from lana.losses import LossLog
from lana.operations import Operation
from lana.profiling import (
    Builder,
    Offer,
    keep_promising,
    make_offers,
    pairs,
    planned_offers,
    read_offers,
    with_latencies,
    write_offers,
)
from lana.progress import Progress
from lana.recipe import Recipe, fingerprint
from lana.run import POOL, Run, write_json, write_text
from lana.selection import Selection, Selector
from lana.student import assemble, build_operation, save_student
from lana.teacher import Teacher
from lana.wholes import PROCESSES, Log, Measured
from profilers import Comparison, Computation, LatencyTable, RuntimeSettings, compare, create_runtime
from profilers import profile as measure_table
from profilers.bundle import packages_of, write_bundle
from profilers.library import search_path

if TYPE_CHECKING:
    from lana.pipeline import Setting

CANDIDATE_IMAGES = 2000  # training images on which candidates are compared (the paper: 6000)
LOSS_IMAGES, NORM_IMAGES = 1000, 600  # on which the losses that correct the scores are measured, many times


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The teacher's figures, frozen once per run: its metric on the test split, its latency in milliseconds."""

    metric: float
    examples: int
    teacher_ms: float
    runtime_versions: Mapping[str, str]

    def budget_ms(self, recipe: Recipe) -> float:
        ratio = recipe.budget_ratio
        return ratio * self.teacher_ms if ratio is not None else recipe.budget_ms or 0.0


# --- the pool: shared by all students -----------------------------------------------------------------------------


def baseline(setting: Setting) -> Baseline:
    """Evaluate and measure the teacher, once per run.

    Raises:
        UserError: its metric is that of a guess.
    """
    run, recipe, teacher = setting.run, setting.recipe, setting.teacher
    path, wanted = run.pool / "teacher.json", recipe.fingerprint("teacher", "profile")
    if not run.finished("teacher", wanted):
        runtime = create_runtime(recipe.runtime, setting.runtime_settings)  # not installed? then say so at once
        with run.stage("teacher", wanted):
            evaluation = evaluate_module(teacher.module, setting.data.test, setting.task, device=recipe.device)
            check_teacher(evaluation, teacher, setting.data, setting.task)
            itself = teacher_computation(setting)
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
                teacher_ms=sorted(reference.reference_ms)[len(reference.reference_ms) // 2],
                runtime_versions=runtime.versions(),
            )
            write_json(path, vars(found))
    return Baseline(**json.loads(path.read_text()))


def teacher_computation(setting: Setting) -> Computation:
    example = setting.teacher.example(setting.recipe.batch)
    form = runtime_form(setting.recipe.runtime, setting.runtime_settings)
    return to_computation(setting.teacher.module, example, setting.run.pool / "wholes", name="teacher", form=form)


def runtime_form(runtime: str, settings: RuntimeSettings) -> str:
    return create_runtime(runtime, settings).form


def profile(setting: Setting) -> list[Offer]:
    """The pool with measured latencies, in `pool/offers.csv`; the table in `pool/table.csv`."""
    run, recipe = setting.run, setting.recipe
    path, wanted = run.pool / "offers.csv", recipe.fingerprint("teacher", "profile")
    if not run.finished("profile", wanted):
        with run.stage("profile", wanted):
            offers, table = _profiled(
                run.table, run.pool / "computations", setting.teacher, setting.scan, recipe, setting.quiet
            )
            write_offers(path, keep_promising(with_latencies(offers, table)))
            shutil.rmtree(run.pool / "computations", ignore_errors=True)
    return read_offers(path)


def profile_to(
    table: Path,
    teacher: Teacher,
    scan: LayerScan,
    recipe: Recipe,
    *,
    tables: Path | None = None,
    fresh: bool = False,
    quiet: bool = False,
) -> LatencyTable:
    """The latency table for a teacher's layers and a pool, without a run."""
    with tempfile.TemporaryDirectory() as folder:
        return _profiled(table, Path(folder), teacher, scan, recipe, quiet, tables, fresh)[1]


def bundle_to(path: Path, teacher: Teacher, scan: LayerScan, recipe: Recipe, *, quiet: bool = False) -> int:
    """The computations of a table with a runner for another device; how many there are.

    They are ONNX files, since a device without torch runs nothing else.

    Raises:
        ProfilerError: the runtime is unknown or runs no ONNX files.
    """
    packages_of(recipe.runtime)  # before the long work
    settings = recipe.runtime_settings
    with tempfile.TemporaryDirectory() as folder, Progress("Building operations", 1, quiet=quiet) as progress:
        _, computations = make_offers(
            teacher, scan, recipe.pool, batch=recipe.batch, folder=Path(folder), on_progress=progress.update
        )
        write_bundle(path, computations, runtime=recipe.runtime, settings=settings)
    return len(computations)


def _profiled(
    table: Path,
    folder: Path,
    teacher: Teacher,
    scan: LayerScan,
    recipe: Recipe,
    quiet: bool,
    tables: Path | None = None,
    fresh: bool = False,
) -> tuple[list[Offer], LatencyTable]:
    settings = recipe.runtime_settings
    form = runtime_form(recipe.runtime, settings)
    builder = Builder(teacher, batch=recipe.batch, folder=folder, form=form)
    planned = planned_offers(teacher, scan, recipe.pool)
    libraries = [] if fresh else search_path(tables)
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


def distill(setting: Setting, offers: Sequence[Offer], recipe: Recipe) -> tuple[list[Offer], Operations]:
    """Every kept operation, trained to imitate its layer; weights under `pool/operations/`.

    Those that distilling gave up are not kept, with the reason.
    """
    run, pool = setting.run, pairs(offers, trainable_only=True)
    folder, wanted = (
        run.pool / "operations",
        fingerprint([recipe.parts(*POOL[:3]), [(p[0].name, p[1]) for p in pool]]),
    )
    if not run.finished("distill", wanted):
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
    wanted = fingerprint([recipe.parts(*POOL), [(layer.name, name) for layer, name in pool]])
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


def selector(
    setting: Setting,
    offers: Sequence[Offer],
    operations: Operations,
    losses: Mapping[tuple[str, str], float],
    baseline: Baseline,
) -> Selector:
    """The closed loop over this run's pool, measuring whole students beside the teacher."""
    run, recipe = setting.run, setting.recipe
    kept = [offer for offer in offers if offer.kept and (offer.layer.name, offer.operation) in losses]
    layers = unique_layers(kept)

    def measure(selections: Sequence[Selection], processes: int) -> list[Comparison]:
        form = runtime_form(recipe.runtime, setting.runtime_settings)
        students = [
            to_computation(
                assemble(setting.teacher.module, layers, selection, operations),
                setting.teacher.example(recipe.batch),
                run.pool / "wholes",
                name=f"student {number}",
                form=form,
            )
            for number, selection in enumerate(selections)
        ]
        with setting.progress(f"Measuring {len(students)} students") as progress:
            comparisons = compared(setting, students, processes)
            progress.update(1)
        for student in students:
            student.file.unlink(missing_ok=True)
        return comparisons

    def measure_loss(selections: Sequence[Selection]) -> list[float]:
        distance, found = reference(setting, LOSS_IMAGES, precision="auto"), []
        with setting.progress(f"Measuring the loss of {len(selections)} students", len(selections)) as progress:
            for selection in selections:
                student = assembled(setting, made, selection, operations, NORM_IMAGES, precision="auto")
                found.append(float(distance.of(student).mean()))
                progress.update(len(found))
        return found

    made = Selector(
        layers=[layer.name for layer in setting.scan.layers],
        offers=kept,
        losses=losses,
        teacher_ms=baseline.teacher_ms,
        log=Log.read(run.pool / "wholes.csv"),
        measure=measure,
        loss_log=LossLog.read(run.pool / "losses.csv"),
        measure_loss=measure_loss,
        refine=recipe.refine,
        calibrate=recipe.calibrate,
        seed=recipe.seed,
    )
    return made


def unique_layers(offers: Sequence[Offer]) -> list[Layer]:
    return list({offer.layer.name: offer.layer for offer in offers}.values())


# --- one student --------------------------------------------------------------------------------------------------


def select(
    setting: Setting,
    selector: Selector,
    baseline: Baseline,
    recipe: Recipe,
    name: str,
    *,
    verify: bool = True,
) -> Path:
    """The best accepted selection for the budget, assembled and saved in `students/NAME`; done once per student."""
    run, start_s = setting.run, time.monotonic()
    folder, path = run.student(name), run.student(name) / "selection.json"
    if path.is_file():
        _check_same(folder, recipe, selector.pins)
        return folder
    budget_ms = baseline.budget_ms(recipe)
    if verify:
        accepted = selector.select(budget_ms, candidates=recipe.candidates, loop=f"{name}, {budget_ms:.6g} ms")
    else:
        selection = selector.solve(budget_ms)
        if selection is None:
            raise selector.unreachable(budget_ms)
        accepted = [Measured(selection=selection, ratios=())]
    best, student = _look(setting, selector, accepted)
    save_student(student, folder, setting.teacher, unique_layers(selector.offers), best.selection)
    metric = evaluate_module(student, setting.data.test, setting.task, device=recipe.device).metric
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    write_json(
        path,
        {
            "budget_ms": budget_ms,
            "predicted_ms": selector.predicted_ms(best.selection),
            "expected_loss": selector.expected_loss(best.selection, budget_ms),
            "selected_metric": metric,
            "selection": full_selection(setting, best.selection),
            "seconds": round(time.monotonic() - start_s, 2),
        },
    )
    return folder


def budget_of(selector: Selector, selection: Selection) -> float:
    """Measure one selection; the budget in milliseconds that its upper 95% bound keeps, with the usual margin."""
    selector.measure_new([selection], PROCESSES)
    measured = selector.log.of(selection)
    if measured is None:
        raise UserError("Within this loss nothing is faster than the teacher. Give a larger --max-loss.")
    return measured.ratio_upper95 * selector.teacher_ms / (1 - selector.margin) * 1.0001


def full_selection(setting: Setting, selection: Mapping[str, str]) -> dict[str, str]:
    """Layers → operation with the teacher's own filled in; a span stands under its own name."""
    covered = {member for name in selection for member in name.split("+")}
    own = {layer.name: "teacher" for layer in setting.scan.layers if layer.name not in covered}
    return {**own, **selection}


def _look(setting: Setting, selector: Selector, accepted: Sequence[Measured]) -> tuple[Measured, nn.Module]:
    """Of several accepted selections, the one nearest to the teacher on training images (the paper, section 3.3)."""
    operations = trained_operations(setting, selector.offers)
    distance_to_teacher = reference(setting)
    best: tuple[float, Measured, nn.Module] | None = None
    for measured in accepted:
        student = assembled(setting, selector, measured.selection, operations)
        distance = float(distance_to_teacher.of(student).mean())
        if best is None or distance < best[0]:
            best = (distance, measured, student)
    if best is None:
        raise LanaError("No accepted selection was given to choose from.")
    return best[1], best[2]


def reference(setting: Setting, images: int = CANDIDATE_IMAGES, precision: str = "fp32") -> DistanceToTeacher:
    """What students are compared with, on images that neither distilling nor scoring has seen."""
    split, device = setting.data.validation.take(images, setting.recipe.seed + 3), setting.recipe.device
    return DistanceToTeacher(setting.teacher.module, split, setting.task, device=device, precision=precision)


def assembled(
    setting: Setting,
    selector: Selector,
    selection: Mapping[str, str],
    operations: Operations,
    images: int = CANDIDATE_IMAGES,
    precision: str = "fp32",
) -> nn.Module:
    """The student of a selection with trained operations and BatchNorm statistics of its own."""
    student = assemble(setting.teacher.module, unique_layers(selector.offers), selection, operations)
    split, device = setting.data.train.take(images, setting.recipe.seed + 2), setting.recipe.device
    reestimate_batchnorm(student, split, device=device, precision=precision)
    return student.cpu()


def trained_operations(setting: Setting, offers: Sequence[Offer]) -> Operations:
    return distilling.load_pool(
        setting.teacher.module, pairs(offers, trainable_only=True), setting.run.pool / "operations"
    )


def _check_same(folder: Path, recipe: Recipe, pins: Mapping[str, str]) -> None:
    """Refuse to take a student for one of other options: selecting again never overwrites."""
    chosen = json.loads((folder / "selection.json").read_text())["selection"]
    changed = [
        *_changed(folder, recipe),
        *(
            f"{layer}: {chosen.get(layer)} there, {pin} pinned now"
            for layer, pin in pins.items()
            if chosen.get(layer) != pin
        ),
    ]
    if changed:
        raise UserError(
            f"There is a student {folder.name!r} of other options already ({'; '.join(changed)}). "
            "Give another --name (its pool is reused), or the same options."
        )


def _changed(folder: Path, recipe: Recipe) -> list[str]:
    """The options that a student was made with otherwise."""
    kept = student_recipe(folder)
    names = kept.parts("student").keys() | recipe.parts("student").keys()
    pairs = {name: (getattr(kept, name), getattr(recipe, name)) for name in sorted(names)}
    return [f"{name}: {then!r} there, {now!r} now" for name, (then, now) in pairs.items() if then != now]


def student_recipe(folder: Path) -> Recipe:
    return Recipe.from_yaml(folder / "recipe.yaml")


def free_name(run: Run, wanted: str, recipe: Recipe) -> str:
    """`wanted`, or with a number where there is such a student already; one that was cut off is gone on with."""
    number, name = 1, wanted
    while run.student(name).exists() and not _cut_off(run, name, recipe):
        number += 1
        name = f"{wanted}-{number}"
    return name


def _cut_off(run: Run, name: str, recipe: Recipe) -> bool:
    folder = run.student(name)
    begun = (folder / "recipe.yaml").is_file()
    return not run.delivered(name) and not (begun and _changed(folder, recipe))


def compared(setting: Setting, students: Sequence[Computation], processes: int) -> list[Comparison]:
    """Whole networks beside the teacher, in fresh processes."""
    return compare(
        teacher_computation(setting),
        students,
        runtime=setting.recipe.runtime,
        settings=setting.runtime_settings,
        processes=processes,
    )
