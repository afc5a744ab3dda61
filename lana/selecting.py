"""The stage of `lana.pipeline` between the pool and a student: select, measure, assemble; what that writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

import lana.distill as distilling
from lana.batchnorm import reestimate_batchnorm
from lana.errors import LanaError, UserError
from lana.evaluation import DistanceToTeacher, evaluate_module
from lana.export import to_computation
from lana.layers import Layer
from lana.losses import LossLog
from lana.profiling import Offer, pairs
from lana.progress import counted
from lana.recipe import Recipe
from lana.run import Run, write_json, write_text
from lana.selection import Selection, Selector
from lana.setting import Setting
from lana.stages import Baseline, Operations, runtime_form, teacher_computation
from lana.student import assemble, save_student
from lana.wholes import PROCESSES, Log, Measured
from profilers import Comparison, Computation, compare

CANDIDATE_IMAGES = 2000  # on which candidates are compared (the paper: 6000), and statistics of BatchNorm taken
LOSS_IMAGES, NORM_IMAGES = 1000, 600  # on which the losses that correct the scores are measured, many times


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
        with setting.progress(f"Measuring {counted(len(students), 'student')}") as progress:
            comparisons = compared(setting, students, processes)
            progress.update(1)
        for student in students:
            student.file.unlink(missing_ok=True)
        return comparisons

    def measure_loss(selections: Sequence[Selection]) -> list[float]:
        distance, found = reference(setting, LOSS_IMAGES, precision="auto"), []
        with setting.progress(
            f"Measuring the loss of {counted(len(selections), 'student')}", len(selections)
        ) as progress:
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


def select(
    setting: Setting,
    selector: Selector,
    baseline: Baseline,
    recipe: Recipe,
    name: str,
    *,
    verify: bool = True,
    chosen: Selection | None = None,
    max_loss: float | None = None,
) -> Path:
    """The best accepted selection for the budget, assembled and saved in `students/NAME`; done once per student.

    With `max_loss` it is the one that was `chosen` by that, and the budget its own.
    """
    run, start_s = setting.run, time.monotonic()
    folder, path = run.student(name), run.student(name) / "selection.json"
    if path.is_file():
        _check_same(folder, recipe, selector.pins, verify)
        return folder
    budget_ms = baseline.budget_ms(recipe)
    if chosen is not None:
        accepted = [selector.log.of(chosen) or Measured(selection=chosen, ratios=())]
    elif verify:
        accepted = selector.select(budget_ms, candidates=recipe.candidates, loop=f"{name}, {budget_ms:.6g} ms")
    else:
        selection = selector.solve(budget_ms)
        if selection is None:
            raise selector.unreachable(budget_ms)
        accepted = [Measured(selection=selection, ratios=())]
    best, student = _look(setting, selector, accepted)
    save_student(student, folder, setting.teacher, unique_layers(selector.offers), best.selection)
    metric = evaluate_module(student, setting.data.test, setting.task, device=recipe.device).metric
    write_text(folder / "recipe.yaml", recipe.to_yaml(folder))
    write_json(
        path,
        {
            "budget_ms": budget_ms,
            "max_loss": max_loss,
            "predicted_ms": selector.predicted_ms(best.selection),
            "expected_loss": selector.expected_loss(best.selection, budget_ms),
            "prediction_error": vars(error) if (error := selector.prediction_error()) else None,
            "pins": dict(selector.pins),
            "verify": verify,
            "selected_metric": metric,
            "selection": full_selection(setting, best.selection),
            "seconds": round(time.monotonic() - start_s, 2),
        },
    )
    return folder


def budget_of(selector: Selector, selection: Selection, *, verify: bool) -> float:
    """Milliseconds that one selection keeps: the upper 95% bound, measured twice as of all that is accepted; without
    `verify` what is predicted."""
    if verify:
        for processes in (PROCESSES, 2 * PROCESSES):
            selector.measure_new([selection], processes)
    measured = selector.log.of(selection)
    return selector.predicted_ms(selection) if measured is None else measured.ratio_upper95 * selector.teacher_ms


def full_selection(setting: Setting, selection: Mapping[str, str]) -> dict[str, str]:
    """Layers → operation with the teacher's own filled in; a span stands under its own name."""
    covered = {member for name in selection for member in name.split("+")}
    own = {layer.name: "teacher" for layer in setting.scan.layers if layer.name not in covered}
    return {**own, **selection}


def _look(setting: Setting, selector: Selector, accepted: Sequence[Measured]) -> tuple[Measured, nn.Module]:
    """Of several accepted selections, the one that is `preferred` on images (the paper, section 3.3)."""
    if not accepted:
        raise LanaError("No accepted selection was given to choose from.")
    operations = trained_operations(setting, selector.offers)
    students = [assembled(setting, selector, measured.selection, operations) for measured in accepted]
    if len(students) == 1:
        return accepted[0], students[0]
    distance_to_teacher = reference(setting)
    distances = [float(distance_to_teacher.of(student).mean()) for student in students]
    best = preferred(distances, [measured.ratio for measured in accepted])
    return accepted[best], students[best]


def preferred(distances: Sequence[float], latencies: Sequence[float]) -> int:
    """Of students, the one that is nearest to the teacher for its latency: a percent of either counts alike.

    After fine-tuning nearer ones were the more accurate at one latency, and slower ones at one distance (RESULTS.md).

    >>> preferred([0.20, 0.21, 0.30], [0.270, 0.290, 0.295])
    1
    """
    finite = [i for i, distance in enumerate(distances) if math.isfinite(distance)]
    return min(finite, key=lambda i: distances[i] / latencies[i], default=0)


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


def _check_same(folder: Path, recipe: Recipe, pins: Mapping[str, str], verify: bool) -> None:
    """Refuse to take a student for one of other options: selecting again never overwrites."""
    then = json.loads((folder / "selection.json").read_text())
    before, changed = then.get("pins", {}), _changed(folder, recipe)
    changed += [
        f"{layer}: {before.get(layer, 'nothing')} pinned there, {pins.get(layer, 'nothing')} pinned now"
        for layer in sorted({*before, *pins})
        if before.get(layer) != pins.get(layer)
    ]
    if then.get("verify", verify) != verify:
        changed.append("measured there, --no-verify now" if then["verify"] else "--no-verify there, measured now")
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
