"""The whole story, stage by stage: what a newcomer reads first.

    teacher + data
        │ layers      where may something be replaced, with which shapes
        │ profile     how fast is every operation here → latency table; drop what cannot help
        │ distill     train each surviving operation on its layer's outputs
        │ score       how much does the network lose with it swapped in
        │ select      integer program under the budget → student → measure → correct → solve again
        │ finetune    the student learns from the teacher end to end
        ▼ deliver     ONNX and PyTorch, measured once more in fresh processes

Each stage reads and writes files in the run directory and is skipped when it is finished for the same recipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lana.common.console import figure
from lana.common.progress import reporting, silence
from lana.config.budget import check_number
from lana.config.fields import check_options
from lana.config.fleet_file import read_fleet
from lana.config.folders import is_student, set_aside
from lana.config.recipe import FINETUNING, SELECTING, Recipe
from lana.delivery import remote_devices as devices
from lana.delivery.again import deliver_within_budget
from lana.delivery.deliver import deliver
from lana.delivery.finetune import finetune_student, is_tuned, train_student
from lana.delivery.finetune_units import finetune_students
from lana.delivery.fleet import FleetSummary, FleetWork
from lana.delivery.summary import Summary, meets_budgets, nothing_to_do
from lana.errors import UserError
from lana.models.student_files import Selected
from lana.pool.stages import Pool, make_pool, profile_pool
from lana.runs.baseline import Baseline, measure_baseline
from lana.runs.context import RunContext, prepare
from lana.runs.run import Run
from lana.runs.student_names import free_name, student_recipe
from lana.runs.time_plan import Plan, as_distilled, estimate, fit_to_time
from lana.selection.int8_alone import report_int8_alone
from lana.selection.search import BudgetSearch, fastest_within
from lana.selection.stage import WithinLoss, budget_of, make_search, refuse_by_table, select_student
from lana.training.distributed import DistributedGroup, launched_rank

logger = logging.getLogger(__name__)

WHERE = ("device", "processes", "engine", "workers")  # options that decide where students are fine-tuned


def compress(
    recipe: Recipe, *, out: Path | str, name: str | None = None, keep_over_budget: bool = False, quiet: bool = False
) -> Summary:
    """A student of the recipe's model that measures within its budget, in `out`/students/NAME.

    The same call resumes an interrupted run; with another budget it reuses the pool. A student that measures over the
    budget once it is tuned is chosen again, unless `keep_over_budget`.

    Raises:
        UserError: anything that the user can correct; `BudgetUnreachable` where no selection is fast enough.
    """
    if not recipe.selecting.budget:
        raise UserError("No budget was given. Give --budget 0.4x or --budget-ms 4.2.")
    name = name or recipe.selecting.budget
    with reporting(quiet=quiet), Run.open(out, recipe) as run:
        run.student(name)  # an invalid name is an error before the work begins
        context = prepare(run, recipe)
        context = dataclasses.replace(context, recipe=fit_to_time(context))
        baseline = measure_baseline(context)
        budget_ms = baseline.budget_ms(context.recipe)
        logger.info(
            f"Teacher: {context.task.metric_name} {figure(baseline.metric)} on {baseline.examples} test examples, "
            f"{baseline.teacher_ms:.4g} ms. Budget: {budget_ms:.4g} ms."
        )
        if meets_budgets(context, baseline):
            return nothing_to_do(context, baseline, budget_ms)
        report_int8_alone(context, baseline)
        refuse_by_table(context, baseline, profile_pool(context))
        pool = make_pool(context)
        search = make_search(context, pool, baseline)
        return deliver_within_budget(context, baseline, pool, search, name, keep=keep_over_budget)


def dry_run(recipe: Recipe) -> Plan:
    """The work that `compress` would do and its duration; writes nothing.

    Raises:
        UserError: as `compress`, for faults that show before the work begins.
    """
    with tempfile.TemporaryDirectory() as folder, Run.open(folder, recipe) as run:
        context = prepare(run, recipe)
        return estimate(dataclasses.replace(context, recipe=fit_to_time(context)))


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

    With `max_loss` instead of a budget it is the fastest whose expected loss stays within that. `pins` maps layers to
    the operations that they must get. `options` are the recipe's options of selecting (`lana.config.recipe.SELECTING`)
    and the device: refine=0, proposals=8, device="cpu". The run's own serve where none is given. A student that
    measures over the budget in the end is chosen again, unless keep_over_budget=True.

    Raises:
        UserError: the run is not finished as far as the scores, or the name belongs to a student already; an option
            that selecting does not have.
    """
    keep = bool(options.pop("keep_over_budget", False))
    check_options(options, (*SELECTING, "device"), "Selecting")
    if max_loss is not None:
        check_number("--max-loss", max_loss, least=-math.inf)
    _check_name(Run(Path(out)), name)
    with open_finished(out, quiet=quiet, **options) as (context, baseline, pool, search):
        search.model = dataclasses.replace(search.model, pins=pins or {})
        within = None
        if max_loss is not None:
            within = WithinLoss(selection=fastest_within(search, max_loss), max_loss=max_loss)
            budget = f"{budget_of(search, within.selection, verify=verify):.6g}ms"
        if budget is None:
            raise UserError("No budget was given. Give --budget 0.3x, --budget-ms 2.5 or --max-loss 0.2.")
        context = dataclasses.replace(context, recipe=context.recipe.replace(budget=budget))
        budget_ms = baseline.budget_ms(context.recipe)
        if meets_budgets(context, baseline):
            return nothing_to_do(context, baseline, budget_ms)
        otherwise = budget if max_loss is None else f"loss-{max_loss:g}"
        name = _new_name(context, name, otherwise)
        if verify and within is None:
            return deliver_within_budget(context, baseline, pool, search, name, keep=keep)
        student = select_student(context, baseline, pool, search, name, verify=verify, within=within)
        return deliver(context, baseline, student, verify=verify)


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
    check_options(options, (*SELECTING, "device"), "Selecting")
    for budget_ms in budgets_ms.values():
        check_number("--budget-ms", budget_ms)
    _check_name(Run(Path(out)), name)
    devices.check_devices(list(budgets_ms), measured)
    with open_finished(out, quiet=quiet, **options) as (context, baseline, pool, search):
        opened = [devices.open_device(context, search.model, table, ms, measured) for table, ms in budgets_ms.items()]
        name = _new_name(context, name, "+".join(device.name for device in opened))
        return devices.deliver(context, baseline, pool, opened, name)


def fleet(file: Path | str, *, quiet: bool = False) -> FleetSummary:
    """A student of a finished run for each device of a fleet's file, measured where it runs.

    Raises:
        UserError: the file is no fleet's, or its run is not finished.
    """
    asked = read_fleet(file)
    with open_finished(asked.run, quiet=quiet) as (context, baseline, pool, search):
        work = FleetWork(context=context, baseline=baseline, pool=pool, model=search.model)
        return work.select(asked.devices)


@contextlib.contextmanager
def open_finished(
    out: Path | str, *, quiet: bool = False, **options: Any
) -> Iterator[tuple[RunContext, Baseline, Pool, BudgetSearch]]:
    """A run whose pool is finished, ready to select from by `options`; students of it are not fine-tuned.

    Raises:
        UserError: it is not a run, in use, or not finished as far as the scores.
    """
    with reporting(quiet=quiet), Run.open(out) as run:
        if "score" not in run.stages():
            raise UserError(
                f"The pool of {out} is not finished. Resume with: lana compress --recipe {out}/recipe.yaml --out {out}"
            )
        context = prepare(run, as_distilled(run, run.recipe()).replace(epochs=0.0, **options))
        baseline, pool = measure_baseline(context), make_pool(context)
        yield context, baseline, pool, make_search(context, pool, baseline)


def _new_name(context: RunContext, name: str | None, otherwise: str) -> str:
    """The name of a student that does not exist or is not delivered yet; the same command resumes the latter."""
    _check_name(context.run, name)
    return name or free_name(context.run, otherwise, context.recipe)


def _check_name(run: Run, name: str | None) -> None:
    """Refuse the name of a delivered student, or what is no name, before the work."""
    if name is not None and run.delivered(name):
        raise UserError(f"There is a student {name!r} in {run.path} already. Give another --name.")


def finetune(
    student: Path | str,
    *,
    replace_better: bool = False,
    keep_over_budget: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Summary:
    """Fine-tune a student of a run, as `RUN/students/NAME`, from what was selected, and deliver it anew.

    `options` are those of the recipe that decide fine-tuning, `lana.config.recipe.FINETUNING`, and where: epochs=30,
    mixup=0.2, device="cuda", processes=4 …
    Those that are not given are the run's. A student that was better on the test split is kept, unless
    `replace_better`. One that measures over its budget once it is tuned is chosen again and tuned, unless
    `keep_over_budget`.

    Raises:
        UserError: the folder is not a student's; an option that fine-tuning does not have.
    """
    if launched_rank():
        _follow(student, replace_better, **options)
    aside = set_aside(Path(student).resolve())  # killed before another was chosen in its place
    folder, out = _student_of_here(student, begun=bool(aside))
    check_options(options, (*FINETUNING, "device", "processes"), "Fine-tuning")
    with reporting(quiet=quiet), Run.open(out) as run:
        usual = {name: run.recipe().options[name] for name in FINETUNING}
        begun = (folder / "selection.json").is_file()
        recipe = as_distilled(run, student_recipe(folder if begun else aside[-1])).replace(**{**usual, **options})
        if not recipe.finetuning.epochs:
            why = "--epochs 0 tunes nothing." if "epochs" in options else f"{out} was made with --epochs 0."
            raise UserError(f"{why} Give --epochs 10.")
        context = prepare(run, recipe)
        baseline = measure_baseline(context)
        if begun:
            finetune_student(context, folder, replace_better=replace_better)
            summary = deliver(context, baseline, folder)
            if keep_over_budget or not summary.over_budget:
                return summary
        pool = make_pool(context)
        search = make_search(context, pool, baseline)
        search.model = dataclasses.replace(search.model, pins=Selected.read(folder if begun else aside[-1]).pins)
        return deliver_within_budget(context, baseline, pool, search, folder.name, selected=True)


def _follow(student: Path | str, replace_better: bool, **options: Any) -> NoReturn:
    """The part of a process of `torchrun` that is not the first: it trains and ends, the first delivers."""
    silence()
    folder, out = _student_of_here(student)
    run = Run(out)
    usual = {name: run.recipe().options[name] for name in FINETUNING}
    recipe = as_distilled(run, student_recipe(folder)).replace(**{**usual, **options})
    if not is_tuned(folder, recipe.finetuning, replace_better=replace_better):
        group = DistributedGroup(recipe.compute.device)
        train_student(prepare(run, recipe), folder, group, replace_better)
        group.end()
    os._exit(0)


def finetune_together(
    students: Sequence[Path | str],
    *,
    replace_better: bool = False,
    keep_over_budget: bool = False,
    quiet: bool = False,
    **options: Any,
) -> list[Summary]:
    """As `finetune`, of several students of one run: they are tuned at once, each in one thread, then delivered.

    `options` may also name the engine: engine="processes", workers=4.

    Raises:
        UserError: as `finetune`; students of several runs.
    """
    check_options(options, (*FINETUNING, *WHERE), "Fine-tuning")
    tuning = {name: value for name, value in options.items() if name not in ("engine", "workers")}
    folders = [_student_of_here(student) for student in students]
    if len({out for _, out in folders}) > 1:
        raise UserError("The students are of several runs. Fine-tune those of one run at a time.")
    out = folders[0][1]
    with reporting(quiet=quiet), Run.open(out) as run:
        usual = {name: run.recipe().options[name] for name in FINETUNING}
        recipes = [(f, as_distilled(run, student_recipe(f)).replace(**{**usual, **options})) for f, _ in folders]
        finetune_students(prepare(run, recipes[0][1]), recipes, replace_better=replace_better)
    how = {"replace_better": replace_better, "keep_over_budget": keep_over_budget, "quiet": quiet}
    return [finetune(student, **how, **tuning) for student in students]


def verify(student: Path | str, *, quiet: bool = False) -> Summary:
    """Measure a student of a run once more, as `RUN/students/NAME`, and say whether it is within its budget.

    For one that was delivered unmeasured, or while other work disturbed the measurement.

    Raises:
        UserError: the folder is not a student's.
    """
    folder, out = _student_of_here(student)
    with reporting(quiet=quiet), Run.open(out) as run:
        context = prepare(run, as_distilled(run, student_recipe(folder)))
        return deliver(context, measure_baseline(context), folder, again=True)


def _student_of_here(student: Path | str, *, begun: bool = False) -> tuple[Path, Path]:
    """Its folder, and its run's; one that is `begun` may lack its files."""
    folder = Path(student).resolve()
    if not begun and not (folder / "selection.json").is_file():
        if is_student(folder):
            raise UserError(
                f"{student} was chosen for devices that are not here, and can be neither measured nor fine-tuned here. "
                "Train the network of lana.load_student, or select by a budget of this machine."
            )
        raise UserError(f"{student} is not a student's folder: it has no selection.json. Expected RUN/students/NAME.")
    if not begun:
        Selected.read(folder)  # damaged: told before the work
    return folder, folder.parent.parent
