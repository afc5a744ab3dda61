"""The whole story, stage by stage: what a newcomer reads first.

    teacher + data
        │ layers      where may something be replaced, with which shapes
        │ profile     how fast is every operation here → latency table; drop what cannot help
        │ distill     train each surviving operation to imitate its layer
        │ score       how much does the network lose with it swapped in
        │ select      integer program under the budget → student → measure → correct → solve again
        │ finetune    the student learns from the teacher end to end
        ▼ deliver     ONNX and PyTorch, measured once more in fresh processes

Each stage reads and writes files in the run directory and is skipped when it is finished for the same recipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lana import delivery, devices, selecting, stages
from lana.console import figure
from lana.data import Data, load_data
from lana.errors import UserError
from lana.evaluation import Evaluation, check_device, check_labels, evaluate_module
from lana.forms import Exported, Options, export_as, form_of
from lana.layers import Layer, LayerScan, find_layers
from lana.operations import check_own, pool_names
from lana.plan import Plan, as_distilled, estimate, fit_to_time
from lana.progress import Progress
from lana.recipe import FINETUNING, SELECTING, Recipe, flag, near
from lana.references import is_student
from lana.run import Run
from lana.selection import Selector
from lana.student import load_student_as_teacher, own_module
from lana.summary import Summary, nothing_to_do
from lana.task import Task, load_task
from lana.teacher import Teacher, load_teacher, teacher_of
from profilers import Comparison, LatencyTable, RuntimeSettings, create_runtime


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What every stage works on: the run, what it was told, and the loaded teacher, data and task."""

    run: Run
    recipe: Recipe
    teacher: Teacher
    data: Data
    task: Task
    scan: LayerScan
    quiet: bool = False

    @property
    def runtime_settings(self) -> RuntimeSettings:
        return self.recipe.runtime_settings

    def progress(self, title: str, total: float = 1.0) -> Progress:
        return Progress(title, total, quiet=self.quiet)

    def tell(self, text: str) -> None:
        """What a user wants to see early: wrong figures of the teacher are a reason to stop."""
        if not self.quiet:
            print(text, file=sys.stderr)


def compress(recipe: Recipe, *, out: Path | str, name: str | None = None, quiet: bool = False) -> Summary:
    """A student of the recipe's model that measures within its budget, in `out`/students/NAME.

    The same call again goes on where it was interrupted; with another budget it reuses the pool.

    Raises:
        UserError: anything that the user can mend; `BudgetUnreachable` where no selection is fast enough.
    """
    if not recipe.budget:
        raise UserError("No budget was given. Give --budget 0.4x or --budget-ms 4.2.")
    name = name or recipe.budget
    with Run.open(out, recipe) as run:
        run.student(name)  # a name that is none is told before the work
        setting = prepare(run, recipe, quiet=quiet)
        setting = dataclasses.replace(setting, recipe=fit_to_time(setting))
        recipe, baseline = setting.recipe, stages.baseline(setting)
        budget_ms = baseline.budget_ms(recipe)
        setting.tell(
            f"Teacher: {setting.task.metric_name} {figure(baseline.metric)} on {baseline.examples} test examples, "
            f"{baseline.teacher_ms:.4g} ms. Budget: {budget_ms:.4g} ms."
        )
        if budget_ms >= baseline.teacher_ms:
            return nothing_to_do(setting, baseline, budget_ms)
        selector = make_pool(setting, baseline)
        student = selecting.select(setting, selector, baseline, recipe, name)
        delivery.finetune(setting, student, recipe)
        return delivery.deliver(setting, baseline, student, recipe)


def dry_run(recipe: Recipe) -> Plan:
    """What `compress` would do and how long it would take; writes nothing.

    Raises:
        UserError: as `compress`, for what shows before the work begins.
    """
    with tempfile.TemporaryDirectory() as folder, Run.open(folder, recipe) as run:
        setting = prepare(run, recipe)
        return estimate(setting, fit_to_time(setting))


def prepare(run: Run, recipe: Recipe, *, quiet: bool = False) -> Setting:
    """Load what the recipe names and find the layers; nothing is written to the run before all of it is good."""
    check_device(recipe.device)
    pool_names(recipe.pool)
    create_runtime(recipe.runtime, recipe.runtime_settings)
    teacher = teacher_of(recipe)
    task = load_task(recipe.task)
    data = load_data(recipe.data, teacher, seed=recipe.seed)
    check_labels(teacher, data, task)
    scan = some_layers_of(teacher, recipe)
    check_own(recipe.pool, _places(teacher, scan))
    run.begin(recipe)
    return Setting(run=run, recipe=recipe, teacher=teacher, data=data, task=task, scan=scan, quiet=quiet)


def make_pool(setting: Setting, baseline: stages.Baseline) -> Selector:
    """Profile, distil and score: everything that is shared by all students of the run."""
    offers, operations = stages.distill(setting, stages.profile(setting))
    losses = stages.score(setting, offers, operations)
    return selecting.selector(setting, offers, operations, losses, baseline)


def select(
    out: Path | str,
    budget: str | None = None,
    *,
    max_loss: float | None = None,
    pins: Mapping[str, str] | None = None,
    name: str | None = None,
    verify: bool = True,
    quiet: bool = False,
    **options: Any,
) -> Summary:
    """Another student from a finished run: solved, assembled and (with `verify`) measured; nothing is distilled.

    With `max_loss` instead of a budget it is the fastest whose expected loss stays within that. `pins` says which
    operation must stand at a layer. `options` are those of the recipe that decide how to select,
    `lana.recipe.SELECTING`, and where: refine=0, candidates=8, device="cpu" …; the run's own where they are not given.

    Raises:
        UserError: the run is not finished as far as the scores, or the name belongs to a student already; an option
            that selecting does not have.
    """
    _check_options(options, (*SELECTING, "device"), "Selecting")
    with open_finished(out, quiet=quiet, **options) as (setting, baseline, found):
        selector = dataclasses.replace(found, pins=pins or {})
        chosen = None if max_loss is None else selector.fastest_within(max_loss)
        if chosen is not None:
            budget = f"{selecting.budget_of(selector, chosen, verify=verify):.6g}ms"
        if budget is None:
            raise UserError("No budget was given. Give --budget 0.3x, --budget-ms 2.5 or --max-loss 0.2.")
        recipe = setting.recipe.replace(budget=budget)
        budget_ms = baseline.budget_ms(recipe)
        if budget_ms >= baseline.teacher_ms:
            return nothing_to_do(setting, baseline, budget_ms)
        otherwise = budget if max_loss is None else f"loss-{max_loss:g}"
        name = _new_name(setting.run, name, otherwise, recipe)
        student = selecting.select(
            setting, selector, baseline, recipe, name, verify=verify, chosen=chosen, max_loss=max_loss
        )
        return delivery.deliver(setting, baseline, student, recipe, verify=verify)


def select_for(
    out: Path | str,
    budgets_ms: Mapping[Path, float],
    *,
    measured: Sequence[Path] = (),
    name: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> devices.DeviceSummary:
    """A student of a finished run for devices that are not here: latency table → budget in milliseconds there.

    It fits all of them at once. Unverified until their measurements are read back by `measured`, the
    `measurements.json` of the archives that this writes. `options` are those of `select`.

    Raises:
        UserError: the run is not finished, a table is of another network, two are of one name, or none is of what was
            measured; `BudgetUnreachable` if nothing fits.
    """
    _check_options(options, (*SELECTING, "device"), "Selecting")
    devices.check_devices(list(budgets_ms), measured)
    with open_finished(out, quiet=quiet, **options) as (setting, baseline, selector):
        opened = [devices.open_device(setting, selector, table, ms, measured) for table, ms in budgets_ms.items()]
        name = _new_name(setting.run, name, "+".join(device.name for device in opened), setting.recipe)
        return devices.deliver(setting, baseline, opened, name)


@contextlib.contextmanager
def open_finished(
    out: Path | str, *, quiet: bool = False, **options: Any
) -> Iterator[tuple[Setting, stages.Baseline, Selector]]:
    """A run whose pool is finished, ready to select from by `options`; students of it are not fine-tuned.

    Raises:
        UserError: it is not a run, in use, or not finished as far as the scores.
    """
    with Run.open(out) as run:
        if "score" not in run.stages():
            raise UserError(
                f"The pool of {out} is not finished. Go on with: lana compress --recipe {out}/recipe.yaml --out {out}"
            )
        setting = prepare(run, as_distilled(run, run.recipe()).replace(epochs=0.0, **options), quiet=quiet)
        baseline = stages.baseline(setting)
        yield setting, baseline, make_pool(setting, baseline)


def _new_name(run: Run, name: str | None, otherwise: str, recipe: Recipe) -> str:
    """The name of a student that is not there yet, or was not delivered yet: the same command goes on with it."""
    if name and run.delivered(name):
        raise UserError(f"There is a student {name!r} in {run.path} already. Give another --name.")
    return name or selecting.free_name(run, otherwise, recipe)


def _check_options(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{what} has no option {name!r}.{near(name, list(known))}")


def finetune(student: Path | str, *, quiet: bool = False, **options: Any) -> Summary:
    """Fine-tune a student of a run, as `RUN/students/NAME`, from what was selected, and deliver it anew.

    `options` are those of the recipe that decide fine-tuning, `lana.recipe.FINETUNING`, and where: epochs=30,
    mixup=0.2, device="cuda", processes=4 …
    Those that are not given are the run's.

    Raises:
        UserError: the folder is not a student's; an option that fine-tuning does not have.
    """
    folder = Path(student).resolve()
    out = folder.parent.parent
    if not (folder / "selection.json").is_file():
        if is_student(folder):
            raise UserError(
                f"{student} was chosen for devices that are not here, and can be neither measured nor fine-tuned here. "
                "Train what lana.load_student gives, or select by a budget of this machine."
            )
        raise UserError(f"{student} is not a student's folder: it has no selection.json. Expected RUN/students/NAME.")
    _check_options(options, (*FINETUNING, "device", "processes"), "Fine-tuning")
    with Run.open(out) as run:
        usual = {name: getattr(run.recipe(), name) for name in FINETUNING}
        recipe = as_distilled(run, selecting.student_recipe(folder)).replace(**{**usual, **options})
        if not recipe.epochs:
            why = "--epochs 0 tunes nothing." if "epochs" in options else f"{out} was made with --epochs 0."
            raise UserError(f"{why} Give --epochs 10.")
        setting = prepare(run, recipe, quiet=quiet)
        baseline, before = stages.baseline(setting), delivery.metric_before(folder)
        delivery.finetune(setting, folder, recipe)
        summary = delivery.deliver(setting, baseline, folder, recipe)
        if before is not None and summary.student_accuracy is not None and summary.student_accuracy < before:
            setting.tell(f"Before, this student had {figure(before)}; it was tuned anew from what was selected.")
        return summary


def evaluate(model: str, data: str, *, task: str = "classification", device: str = "cpu", **load: Any) -> Evaluation:
    """The metric on the test split of a model reference, or of a student's folder.

    Raises:
        UserError: unknown references; a device that is not here; labels that the model has no class for.
    """
    check_device(device)
    if is_student(model) and (given := [name for name, value in load.items() if value is not None]):
        raise UserError(f"{model} is a student, which knows its own: leave out {', '.join(map(flag, given))}.")
    network = load_student_as_teacher(model) if is_student(model) else load_teacher(model, **load)
    loaded, judged = load_data(data, network), load_task(task)
    check_labels(network, loaded, judged)
    return evaluate_module(network.module, loaded.test, judged, device=device)


def export(student: Path | str, path: Path | str, *, form: str | None = None, **options: Any) -> Exported:
    """Write a student's network to a file of one of `lana.forms.FORMS` (by default what its suffix says), run it again
    and compare. `options` are those of `lana.forms.Options`: opset=20, dynamic_batch=True …

    Raises:
        UserError: the folder is not a student's; a form or an option that there is not.
        RuntimeUnavailable: what writes the form is not installed.
        ExportFailed: the network cannot be written so.
    """
    _check_options(options, [field.name for field in dataclasses.fields(Options)], "Exporting")
    wanted = Options(**options)
    form = form_of(path, form, wanted)
    loaded = load_student_as_teacher(student)
    return export_as(loaded.module, loaded.example, Path(path), form=form, options=wanted)


def measure(target: str, *, runtime: str, settings: RuntimeSettings, processes: int = 5) -> Comparison:
    """Measure an ONNX file, or the one in a student's folder, in fresh processes; a size left open is the batch.

    It is measured beside itself: its latency is `reference_ms`, the ratios only tell how well that repeats.

    Raises:
        UserError: the target is neither.
    """
    return delivery.measure_target(target, runtime=runtime, settings=settings, processes=processes)


def profile(
    recipe: Recipe, table: Path | str, *, tables: Path | None = None, fresh: bool = False, quiet: bool = False
) -> LatencyTable:
    """The latency table of this machine for the layers of a model and a pool, in the file `table`.

    Rows that the file, or (unless `fresh`) one in the folder `tables` or where tables are looked for, holds already are
    not measured again.

    Raises:
        UserError: there is no folder `tables`; or as `compress`, for the model, its layers and the pool.
    """
    if tables is not None and not tables.is_dir():
        raise UserError(f"--tables {tables}: there is no such folder. Expected one that holds tables.")
    teacher, scan = _layers(recipe)
    return stages.profile_to(Path(table), teacher, scan, recipe, tables=tables, fresh=fresh, quiet=quiet)


def bundle(recipe: Recipe, path: Path | str, *, quiet: bool = False) -> int:
    """An archive that measures the table on a device with nothing of ours; how many computations it holds."""
    teacher, scan = _layers(recipe)
    return stages.bundle_to(Path(path), teacher, scan, recipe, quiet=quiet)


def _layers(recipe: Recipe) -> tuple[Teacher, LayerScan]:
    pool_names(recipe.pool)
    teacher = teacher_of(recipe, pretrained=False)
    scan = some_layers_of(teacher, recipe)
    check_own(recipe.pool, _places(teacher, scan))
    return teacher, scan


def _places(teacher: Teacher, scan: LayerScan) -> list[tuple[Layer, nn.Module]]:
    return [(layer, own_module(teacher.module, layer)) for layer in (*scan.layers, *scan.spans)]


def some_layers_of(teacher: Teacher, recipe: Recipe) -> LayerScan:
    """`layers_of`, one at least.

    Raises:
        UserError: there is none.
    """
    scan = layers_of(teacher, recipe)
    if not scan.layers:
        left_out = f" and not --exclude {recipe.exclude!r}" if recipe.exclude else ""
        raise UserError(
            f"{recipe.model} has no layer that can be replaced and matches --layers {recipe.layers!r}{left_out}. "
            f"See what there is, and why not, with: lana layers {recipe.model}"
        )
    return scan


def layers_of(teacher: Teacher, recipe: Recipe) -> LayerScan:
    """The layers and spans of a teacher that a recipe asks for."""
    return find_layers(
        teacher.module,
        (teacher.example(),),
        include=recipe.layers.split(","),
        exclude=recipe.exclude.split(","),
        granularity=recipe.granularity,
        max_span=recipe.max_span,
    )
