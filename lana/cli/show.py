"""Commands that show: layers, pool, evaluate, validate-scores, compare, status, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from lana.cli.app import main
from lana.cli.options import (
    LOADING,
    PATH,
    PLACES,
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
    trust,
)
from lana.common.console import figure, listed
from lana.config.budget import parse_budget
from lana.config.fields import flag
from lana.config.folders import is_student
from lana.config.recipe import Recipe
from lana.config.references import check_data, check_model
from lana.errors import UserError


@main.command()
@click.argument("model")
@recipe_options(*LOADING, *PLACES)
@as_json
def layers(model: str, json_output: bool, **options: Any) -> None:
    """List what can be replaced in MODEL, with shapes and share of the work; what cannot, and why.

    \b
    lana layers timm:resnet18
    lana layers net.py:build --input-shape 3,64,64 --exclude 'head.*'
    """
    recipe = recipe_of(None, model=model, **options)
    from lana.models.teacher import teacher_of
    from lana.pool.explanation import without_pruned
    from lana.runs.context import layers_of

    teacher = teacher_of(recipe.teacher, pretrained=False)
    scan = layers_of(teacher, recipe.profiling)
    unpruned = without_pruned(teacher, scan)
    if json_output:
        print_json({**dataclasses.asdict(scan), "unpruned": unpruned})
        return
    from rich.table import Table

    from lana.common.console import make_console

    table = Table(title=f"{len(scan.layers)} replaceable layers of {model}")
    for column in ("layer", "input", "output", "share of work"):
        table.add_column(column, justify="right" if column == "share of work" else "left")
    for layer in scan.layers:
        shapes = ["×".join(map(str, shape)) for shape in (layer.input_shape, layer.output_shape)]
        table.add_row(layer.name, *shapes, f"{layer.macs / scan.total_macs:.1%}")
    covered = sum(layer.macs for layer in scan.layers) / max(scan.total_macs, 1)
    console = make_console()
    console.print(table, f"They hold {covered:.1%} of {scan.total_macs:,} multiply-adds.")
    if scan.spans:
        spans = Table(f"{len(scan.spans)} spans, each of which one operation may replace")
        for span in scan.spans:
            spans.add_row(span.name)
        console.print(spans)
    for title, reasons in (
        ("Layers without pruned operations", unpruned.items()),
        ("Neighbours that no operation replaces together", [(one.name, one.reason) for one in scan.unlinked]),
    ):
        if reasons:
            console.print(_reasons(title, reasons))
    if scan.skipped:
        skipped = Table("submodule", "why it is left as it is", title="Skipped")
        for entry in scan.skipped:
            skipped.add_row(entry.name or "(the whole network)", entry.reason)
        console.print(skipped)


def _reasons(title: str, reasons: Iterable[tuple[str, str]]) -> Any:
    """A table of reasons, each with the names that share it."""
    from rich.table import Table

    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    table = Table("names", "why", title=title)
    for reason, alike in names.items():
        table.add_row(listed(alike, most=SHOWN), reason)
    return table


SHOWN = 12  # names that share a reason


@main.command()
@click.argument("subject", metavar="[POOL | MODEL]", required=False)
@click.option("--explain", is_flag=True, help="Explain which operations MODEL is offered, and why not the others.")
@recipe_options("pool", *LOADING, *PLACES)
@as_json
def pool(subject: str | None, explain: bool, json_output: bool, **options: Any) -> None:
    """List the presets of operations, with families and counts; or what POOL holds.

    With --explain, list what each layer of MODEL is offered, and why it is not offered the rest.

    \b
    lana pool
    lana pool default,my_ops.py
    lana pool timm:resnet18 --explain --pool default,my_ops.py
    """
    if explain:
        if subject is None:
            raise UserError("--explain needs a MODEL, for example: lana pool timm:resnet18 --explain")
        _explain(recipe_of(None, model=subject, **options), json_output=json_output)
        return
    if options := given(options):
        raise UserError(f"{flag(next(iter(options)))} is for a MODEL: give --explain too.")
    from rich.table import Table

    from lana.common.console import make_console
    from lana.operations.presets import PRESETS, pool_counts

    counts = {name: pool_counts(name) for name in ([subject] if subject else PRESETS)}
    if json_output:
        print_json(counts)
        return
    table = Table("family", *counts, title="Operations of a family in each pool")
    for family in dict.fromkeys(family for held in counts.values() for family in held):
        row = [str(held.get(family, "")) for held in counts.values()]
        table.add_row(family, *row)
    table.add_section()
    table.add_row("all", *(str(sum(held.values())) for held in counts.values()))
    make_console().print(table)


def _explain(recipe: Recipe, *, json_output: bool) -> None:
    from lana.models.teacher import teacher_of
    from lana.pool.explanation import explain
    from lana.runs.context import layers_of

    teacher = teacher_of(recipe.teacher, pretrained=False)
    explanations = explain(teacher, layers_of(teacher, recipe.profiling), recipe.profiling.pool)
    if json_output:
        print_json([dataclasses.asdict(one) for one in explanations])
        return
    from rich.table import Table

    from lana.common.console import make_console

    layers: dict[tuple[str, str], list[str]] = {}  # layers that are offered the same share a row
    for layer in dict.fromkeys(one.layer for one in explanations):
        own = [one for one in explanations if one.layer == layer]
        offered = ", ".join(f"{one.family} ({len(one.offered)})" for one in own if one.offered)
        names: dict[str, list[str]] = {}
        for one in own:
            for operation, reason in one.refused.items():
                names.setdefault(reason, []).append(operation if one.offered else one.family)
        refused = "\n".join(f"{', '.join(dict.fromkeys(refused))}: {reason}" for reason, refused in names.items())
        layers.setdefault((offered, refused), []).append(layer)
    table = Table(
        "layers and spans",
        "offered",
        "not offered, and why",
        title=f"Operations of {recipe.profiling.pool} for {recipe.teacher.model}",
    )
    for (offered, refused), alike in layers.items():
        table.add_row("\n".join(alike), offered, refused)
        table.add_section()
    make_console().print(table)


@main.command()
@click.argument("model")
@recipe_options("data", "task", "decode", *LOADING, "device")
@trust
@as_json
def evaluate(
    model: str, data: str | None, task: str | None, device: str | None, json_output: bool, **options: Any
) -> None:
    """Evaluate a student's folder, or MODEL, on the test split of the data.

    \b
    lana evaluate timm:resnet18 --weights mine.safetensors --model-args num_classes=37 --data folder:images
    lana evaluate runs/mine/students/8ms --data folder:images --json
    """
    if not data:
        raise UserError("No data was given. Give --data, for example --data folder:images.")
    check_data(data)
    if not is_student(model):
        check_model(model)
    from lana import standalone

    loading = given(options)
    result = standalone.evaluate(model, data, task=task or "classification", device=device or "cpu", **loading)
    if json_output:
        figures = {"metric": result.metric, "loss": result.loss, "examples": result.examples}
        print_json({**figures, **({"others": result.others} if result.others else {})})
    else:
        others = "".join(f", {name} {figure(value)}" for name, value in result.others.items())
        loss = "" if task == "detection" else f", loss {result.loss:.4f}"
        click.echo(f"{figure(result.metric)} on {result.examples} test examples{others}{loss}")


@main.command()
@run_argument
@click.option(
    "--validate", type=click.IntRange(4, 10_000), default=60, help="Students to measure in each band.  [default: 60]"
)
@click.option(
    "--budget", multiple=True, help="Band of latency, e.g. 0.5x; may be repeated.  [default: 0.7x 0.5x 0.35x]"
)
@trust
@quiet
@as_json
def validate_scores(run: Path, validate: int, budget: tuple[str, ...], json_output: bool) -> None:
    """Measure how truly the scores of a finished RUN rank students of one latency.

    \b
    lana validate-scores runs/digits-resnet --validate 60
    """
    parsed = [parse_budget(text) for text in budget]
    if any(unit != "x" for _, unit in parsed):
        raise UserError("A band is a share of the teacher's latency: give --budget 0.5x.")
    from lana.report.score_ranking import BAND_RATIOS
    from lana.report.score_ranking import validate as validated

    bands = tuple(value for value, _ in parsed) or BAND_RATIOS
    print_result(validated(run, students=validate, budgets=bands), json_output=json_output)


@main.command()
@run_argument
@budget_ms
@budget
@trust
@quiet
@as_json
def compare(run: Path, budget: str | None, budget_ms: float | None, json_output: bool) -> None:
    """Compare the integer program with other searches on the pool of a finished RUN.

    \b
    lana compare runs/digits-resnet --budget 0.4x
    """
    budget = one_budget(budget, budget_ms) or "0.5x"
    from lana.report.search_comparison import compare_searches

    print_result(compare_searches(run, budget), json_output=json_output)


@main.command()
@run_argument
@as_json
def status(run: Path, json_output: bool) -> None:
    """Tell what of RUN is done, running, failed and left, by host; from any terminal, while it is made.

    \b
    lana status runs/digits-resnet
    """
    from lana.runs.status import run_status

    print_result(run_status(run), json_output=json_output)


@main.command()
@run_argument
@click.option("--html", type=PATH, help="Where the page goes.  [default: RUN/report.html]")
@click.option("--plots", is_flag=True, help="Also draw accuracy against latency as SVG and PNG, in RUN/plots.")
@as_json
def report(run: Path, html: Path | None, plots: bool, json_output: bool) -> None:
    """Show the students of RUN with their teacher, and write the whole report as one HTML file.

    \b
    lana report runs/digits-resnet
    """
    from lana.delivery.summary import Summary, show_run
    from lana.report import write_report
    from lana.runs.run import Run

    with Run.open(run) as opened:
        paths = sorted((opened.path / "students").glob("*/summary.json"))
        if not paths:
            raise UserError(f"{run} has no finished student. Make one with: lana select {run} --budget 0.5x")
        summaries = [Summary.read(path) for path in paths]
    page = write_report(run, html) if html or not json_output else None
    pictures = []
    if plots:
        from lana.report.plots import write_plots

        pictures = write_plots(run)
    if json_output:
        print_json([dataclasses.asdict(summary) for summary in summaries])
        return
    show_run(summaries)
    click.echo(f"Report: {page}")
    if pictures:
        click.echo(f"Plots: {', '.join(map(str, pictures))}")
