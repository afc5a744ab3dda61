"""Commands that make a student: compress, select, finetune, verify, export."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import click

from lana.cli.app import main
from lana.cli.options import (
    LOADING,
    PATH,
    PLACES,
    TARGET,
    as_json,
    budget,
    budget_ms,
    given,
    one_budget,
    print_json,
    print_result,
    quiet,
    recipe_of,
    recipe_options,
    run_argument,
    student_argument,
    trust,
)
from lana.config.budget import check_number, parse_budget
from lana.config.folders import is_student, tuned_folder
from lana.config.recipe import FINETUNING, SELECTING
from lana.config.references import check_data, check_model
from lana.errors import UserError

logger = logging.getLogger(__name__)


@main.command()
@click.argument("model", required=False)
@recipe_options("data")
@budget_ms
@budget
@recipe_options(*LOADING, "task", "decode", *TARGET, "precisions", "device", "pool", *PLACES, *FINETUNING, "processes")
@recipe_options("distill_epochs", "distill_images", "distill_batch", "score_images", *SELECTING, "seed", "max_minutes")
@recipe_options("engine", "workers", "unit_operations", "unit_memory")
@click.option("--recipe", type=click.Path(), help="A recipe in YAML; options on the command line override it.")
@click.option("--out", type=PATH, help="The run directory.  [default: runs/MODEL]")
@click.option("--name", help="Name of the student.  [default: the budget]")
@click.option("--keep-over-budget", is_flag=True, help="Deliver a student over its budget; choose no other.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and how long it would take, and stop.")
@trust
@quiet
@as_json
def compress(
    budget: str | None,
    budget_ms: float | None,
    recipe: str | None,
    out: Path | None,
    name: str | None,
    keep_over_budget: bool,
    dry_run: bool,
    json_output: bool,
    **options: Any,
) -> None:
    """Make a student of MODEL that measures within the budget.

    The same command resumes an interrupted run; with another budget it reuses the pool of the run.

    \b
    lana compress digits-resnet --data digits --budget 0.4x
    lana compress net.py:build --weights net.safetensors --data folder:images --budget-ms 3 --image-size 64
    """
    full_recipe = recipe_of(recipe, budget=one_budget(budget, budget_ms), **options)
    if not full_recipe.teacher.model or not full_recipe.teacher.data:
        raise UserError("MODEL and --data are needed, on the command line or in the recipe. See: lana compress --help")
    if not full_recipe.selecting.budget:
        raise UserError("No budget was given. Give --budget 0.4x or --budget-ms 4.2.")
    from lana import pipeline

    folder = out or Path("runs") / full_recipe.teacher.model.replace(":", "-").replace("/", "-").removesuffix(".py")
    if dry_run:
        plan = pipeline.dry_run(full_recipe)
        if json_output:
            print_json(plan.to_json())
        else:
            click.echo("\n".join(plan.lines()))
        return
    logger.info(f"Run directory: {folder}")
    summary = pipeline.compress(full_recipe, out=folder, name=name, keep_over_budget=keep_over_budget)
    print_result(summary, json_output=json_output)
    if not json_output and summary.changed:
        click.echo(f"Student: {folder / 'students' / summary.student}")
    click.get_current_context().exit(0 if summary.verified or not summary.changed else 1)


@main.command()
@run_argument
@click.option("--budget-ms", type=float, multiple=True, help="Latency budget in milliseconds; one for each --table.")
@budget
@click.option("--max-loss", type=float, help="Instead of a budget: the fastest whose expected loss is at most this.")
@click.option("--pin", multiple=True, help="LAYER=OPERATION that the student must have; may be repeated.")
@click.option("--table", type=PATH, multiple=True, help="Latency table of another device.")
@click.option("--measured", type=PATH, multiple=True, help="measurements.json that came back from a device.")
@recipe_options(*SELECTING, "device", of_run=True)
@click.option("--name", help="Name of the student.  [default: the budget]")
@click.option("--keep-over-budget", is_flag=True, help="Deliver a student over its budget; choose no other.")
@click.option("--verify/--no-verify", default=True, help="Measure the student, or trust the prediction.")
@trust
@quiet
@as_json
def select(
    run: Path,
    budget: str | None,
    budget_ms: tuple[float, ...],
    max_loss: float | None,
    pin: tuple[str, ...],
    table: tuple[Path, ...],
    measured: tuple[Path, ...],
    name: str | None,
    keep_over_budget: bool,
    verify: bool,
    json_output: bool,
    **options: Any,
) -> None:
    """Another student from a finished RUN; nothing is distilled again.

    With --table the student is for another device, with several tables for all of them at once. The measurements that
    --measured reads back verify it, or correct the prediction and solve again.

    \b
    lana select runs/digits-resnet --budget 0.3x --no-verify
    lana select runs/digits-resnet --max-loss 0.2
    lana select runs/digits-resnet --budget 0.3x --refine 0 --name plain-sum
    lana select runs/digits-resnet --table phone.csv --budget-ms 5 --table board.csv --budget-ms 9
    """
    chosen = given(options)
    for number in budget_ms:
        check_number("--budget-ms", number)
    if table:
        if len(budget_ms) != len(table) or budget or max_loss is not None or pin:
            raise UserError(
                f"Give one --budget-ms for each --table and nothing else: got {len(budget_ms)}, {len(table)}."
            )
        budgets = dict(zip(table, budget_ms, strict=True))
        if len(budgets) < len(table):
            raise UserError("A --table was given twice. Give each once, with its --budget-ms.")
        from lana.pipeline import select_for

        devices_summary = select_for(run, budgets, measured=measured, name=name, **chosen)
        print_result(devices_summary, json_output=json_output)
        return
    if measured:
        raise UserError("--measured is of a device: give its table too, with --table and --budget-ms.")
    if len(budget_ms) > 1 or (max_loss is not None and (budget or budget_ms)):
        raise UserError("Give one of --budget, --budget-ms and --max-loss, once.")
    budget = one_budget(budget, budget_ms[0] if budget_ms else None)
    if budget is not None:
        parse_budget(budget)
    elif max_loss is None:
        raise UserError("No budget was given. Give --budget 0.3x, --budget-ms 2.5 or --max-loss 0.2.")
    pins: dict[str, str] = {}
    for layer, operation in map(_pin, pin):
        if pins.setdefault(layer, operation) != operation:
            raise UserError(f"--pin gives {layer} both {pins[layer]} and {operation}. Give one of them.")
    from lana import pipeline

    summary = pipeline.select(
        run, budget, max_loss=max_loss, pins=pins, name=name, verify=verify, keep_over_budget=keep_over_budget, **chosen
    )
    print_result(summary, json_output=json_output)
    click.get_current_context().exit(0 if summary.verified or not summary.changed or not verify else 1)


def _pin(text: str) -> tuple[str, str]:
    layer, equals, operation = text.partition("=")
    if not (layer and equals and operation):
        raise UserError(f"--pin {text!r}: expected LAYER=OPERATION, for example layer1.0=identity.")
    return layer, operation


@main.command()
@click.argument(
    "students", nargs=-1, required=True, type=PATH, callback=lambda ctx, param, paths: [*map(tuned_folder, paths)]
)
@recipe_options(*FINETUNING, "device", "processes", "engine", "workers", of_run=True)
@click.option("--replace-better", is_flag=True, help="Replace the student even by one that is worse on the test split.")
@click.option("--keep-over-budget", is_flag=True, help="Deliver a student over its budget; choose no other.")
@trust
@quiet
@as_json
def finetune(
    students: list[Path], replace_better: bool, keep_over_budget: bool, json_output: bool, **options: Any
) -> None:
    """Fine-tune STUDENTS (RUN/students/NAME) with their teacher, and deliver them anew.

    The same command resumes an interrupted fine-tuning and ends with the same weights.
    A student that was better on the test split is kept. One over its budget is chosen again, and tuned.
    Several students of one run are tuned at once by --engine processes or ray.

    \b
    lana finetune runs/digits-resnet/students/0.4x --epochs 30
    lana finetune runs/mine/students/5ms --epochs 90 --mixup 0.2 --cutmix 1 --temperature 2 --patience 10
    lana finetune runs/mine/students/5ms --epochs 90 --finetune-batch 512 --device cuda --processes 4
    lana finetune runs/mine/students/5ms runs/mine/students/8ms --epochs 90 --engine processes --workers 2
    """
    from lana import pipeline

    how = {"replace_better": replace_better, "keep_over_budget": keep_over_budget, **given(options)}
    if len(students) == 1:
        alone = {name: value for name, value in how.items() if name not in ("engine", "workers")}
        print_result(pipeline.finetune(students[0], **alone), json_output=json_output)
        return
    summaries = pipeline.finetune_together(students, **how)
    if json_output:
        print_json([dataclasses.asdict(summary) for summary in summaries])
        return
    for summary in summaries:
        summary.show()


@main.command()
@student_argument
@trust
@quiet
@as_json
def verify(student: Path, json_output: bool, **options: Any) -> None:
    """Measure STUDENT (RUN/students/NAME) once more: is it within its budget?

    For one that was delivered as not verified, when the machine is quiet.

    \b
    lana verify runs/digits-resnet/students/0.4x
    """
    from lana import pipeline

    summary = pipeline.verify(student, **options)
    print_result(summary, json_output=json_output)
    click.get_current_context().exit(0 if summary.verified else 1)


@main.command()
@click.argument("model")
@click.argument("out", type=PATH)
@recipe_options(*LOADING, "data")
@click.option("--precisions", default="fp32", help="fp32, or int8 with ranges from --data.  [default: fp32]")
@click.option("--format", help="onnx, torch_export, openvino or tensorrt.  [default: by suffix]")
@click.option("--opset", type=int, help="Opset of an ONNX file.  [default: 18]")
@click.option("--dynamic-batch", is_flag=True, help="Leave the number of examples open.")
@click.option("--batch", type=click.IntRange(1, 65_536), default=1, help="Number of examples otherwise.  [default: 1]")
@click.option("--runtime-precision", default="fp32", help="fp32, or fp16 for openvino and tensorrt.  [default: fp32]")
@trust
@as_json
def export(model: str, out: Path, precisions: str, data: str | None, json_output: bool, **options: Any) -> None:
    """Write a student's folder, or MODEL, to the file OUT, run the file again and compare it with PyTorch.

    \b
    lana export runs/digits-resnet/students/0.4x student.onnx --dynamic-batch
    lana export runs/digits-resnet/students/0.4x student.xml --runtime-precision fp16
    lana export timm:resnet18 net.onnx --precisions int8 --data folder:images
    """
    from lana.exporters.formats import Options, format_of
    from lana.quantization.scheme import check_precisions

    load = {name: options.pop(name) for name in LOADING}
    format = format_of(out, options.pop("format"), Options(**options))
    check_precisions(precisions)
    if data is not None:
        check_data(data)
    if not is_student(model):
        check_model(model)
    from lana import standalone

    exported = standalone.export(model, out, format=format, precisions=precisions, data=data, load=load, **options)
    print_result(exported, json_output=json_output)
