"""The command line: parse, call, print. What an option means is told by `lana.recipe.Recipe`, once."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lana import __version__
from lana.errors import LanaError, UserError
from lana.recipe import Recipe, flag, near
from profilers.errors import ProfilerError
from solvers.errors import SolverError

EXIT_USER_ERROR = 2

Command = Callable[..., Any]


class NumbersType(click.ParamType):
    """Numbers separated by commas."""

    name = "numbers"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 0.5,0.5,0.5", param, ctx)


def _click_type(annotation: Any) -> Any:
    """The parser of a recipe's field: the type without None."""
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return NumbersType(typing.get_args(annotation)[0])
    return annotation


def recipe_options(*names: str, rename: dict[str, str] | None = None) -> Callable[[Command], Command]:
    """Options for the named fields of the recipe, with its help texts and defaults."""
    hints = typing.get_type_hints(Recipe)
    specs = {spec.name: spec for spec in dataclasses.fields(Recipe)}

    def add(command: Command) -> Command:
        for name in reversed(names):
            spec = specs[name]
            shown = "" if spec.default in (None, "") else f"  [default: {spec.default}]"
            command = click.option(
                flag(name),
                name,
                type=_click_type(hints[name]),
                default=None,
                help=spec.metadata["help"] + shown,
            )(command)
        return command

    return add


LOADING = ("weights", "model_args", "image_size", "mean", "std", "input_shape")
TARGET = ("runtime", "threads", "batch", "arithmetic", "affinity")
PLACES = ("layers", "exclude", "granularity", "max_span")
quiet = click.option("--quiet", is_flag=True, help="Print results only.")
as_json = click.option("--json", "json_output", is_flag=True, help="Print the result as JSON.")
budget_ms = click.option("--budget-ms", type=float, help="Latency budget in milliseconds.")
budget = click.option("--budget", help="Latency budget as a share of the teacher's, e.g. 0.4x.")


class Group(click.Group):
    """Offers near names for an unknown command, and turns our errors into one message and an exit code."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}.{near(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (LanaError, ProfilerError, SolverError) as error:
            click.echo(f"lana: {error}", err=True)
            ctx.exit(1 if type(error) is LanaError else EXIT_USER_ERROR)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lana")
def main() -> None:
    """Compress a pretrained PyTorch network to a latency budget that holds when measured.

    \b
    lana compress digits-resnet --data digits --budget 0.4x
    lana compress timm:resnet18 --data folder:images --budget-ms 8 --out runs/mine
    """


def _budget(ratio: str | None, milliseconds: float | None) -> str | None:
    if ratio is not None and milliseconds is not None:
        raise UserError("Both --budget and --budget-ms were given. Give one of them.")
    return f"{milliseconds:g}ms" if milliseconds is not None else ratio


def _recipe(recipe: str | None, **given: Any) -> Recipe:
    """The recipe file with the options on top; without a file, the options."""
    options = {name: value for name, value in given.items() if value is not None}
    return Recipe.from_yaml(recipe, **options) if recipe else Recipe(**options)


def _print(result: Any, *, json_output: bool) -> None:
    if json_output:
        click.echo(json.dumps(dataclasses.asdict(result), indent=1, default=str))
    else:
        result.show()


@main.command()
@click.argument("model", required=False)
@recipe_options("data")
@budget_ms
@budget
@recipe_options(*LOADING, "task", *TARGET, "device", "pool", *PLACES, "epochs", "lr", "batch_size")
@recipe_options("distill_epochs", "distill_images", "score_images", "candidates", "precision", "seed", "max_minutes")
@click.option("--recipe", type=click.Path(), help="A recipe in YAML; options given beside it win.")
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/MODEL]")
@click.option("--name", help="Name of the student.  [default: the budget]")
@click.option("--dry-run", is_flag=True, help="Print what would be done and how long it would take, and stop.")
@quiet
@as_json
def compress(
    budget: str | None,
    budget_ms: float | None,
    recipe: str | None,
    out: Path | None,
    name: str | None,
    dry_run: bool,
    quiet: bool,
    json_output: bool,
    **options: Any,
) -> None:
    """Make a student of MODEL that measures within the budget.

    The same command again goes on where it was interrupted; with another budget it reuses the pool of the run.

    \b
    lana compress digits-resnet --data digits --budget 0.4x
    lana compress net.py:build --weights net.safetensors --data folder:images --budget-ms 3 --image-size 64
    """
    from lana import pipeline

    told = _recipe(recipe, budget=_budget(budget, budget_ms), **options)
    if not told.model or not told.data:
        raise UserError("MODEL and --data are needed, on the command line or in the recipe. See: lana compress --help")
    folder = out or Path("runs") / told.model.replace(":", "-").replace("/", "-").removesuffix(".py")
    if dry_run:
        click.echo("\n".join(pipeline.dry_run(told)))
        return
    if not quiet and not json_output:
        click.echo(f"Run directory: {folder}", err=True)
    summary = pipeline.compress(told, out=folder, name=name, quiet=quiet or json_output)
    _print(summary, json_output=json_output)
    if not json_output and summary.changed:
        click.echo(f"Student: {folder / 'students' / summary.student}")
    sys.exit(0 if summary.verified or not summary.changed else 1)


@main.command()
@click.argument("model")
@recipe_options(*LOADING, *PLACES)
@as_json
def layers(model: str, json_output: bool, **options: Any) -> None:
    """List what can be replaced in MODEL, with shapes and share of the work; what cannot, and why."""
    from lana.pipeline import layers_of
    from lana.teacher import teacher_of

    recipe = _recipe(None, model=model, **options)
    scan = layers_of(teacher_of(recipe, pretrained=False), recipe)
    if json_output:
        click.echo(json.dumps(dataclasses.asdict(scan), indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(scan.layers)} replaceable layers of {model}")
    for column in ("layer", "input", "output", "share of work"):
        table.add_column(column, justify="right" if column == "share of work" else "left")
    for layer in scan.layers:
        shapes = ["×".join(map(str, shape)) for shape in (layer.input_shape, layer.output_shape)]
        table.add_row(layer.name, *shapes, f"{layer.macs / scan.total_macs:.1%}")
    covered = sum(layer.macs for layer in scan.layers) / max(scan.total_macs, 1)
    console = Console()
    console.print(table, f"They hold {covered:.1%} of {scan.total_macs:,} multiply-adds.")
    if scan.spans:
        spans = Table(title=f"{len(scan.spans)} spans that one operation may stand for")
        for span in scan.spans:
            spans.add_row(span.name)
        console.print(spans)
    if scan.passed_over:
        passed = Table("submodule", "why it is left as it is", title="Passed over")
        for entry in scan.passed_over:
            passed.add_row(entry.name or "(the whole network)", entry.reason)
        console.print(passed)


@main.command()
@click.argument("model")
@recipe_options(*LOADING, *TARGET, "pool", *PLACES)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="The table.  [default: MODEL-RUNTIME.csv]")
@click.option("--tables", type=click.Path(path_type=Path), help="A folder of tables whose rows need not be measured.")
@click.option("--fresh", is_flag=True, help="Measure all anew, whatever known tables hold.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Write an archive that measures on another device.")
@quiet
def profile(
    model: str, out: Path | None, tables: Path | None, fresh: bool, bundle: Path | None, quiet: bool, **options: Any
) -> None:
    """Measure the latency table of this machine for MODEL's layers and the pool; needs no data.

    The same command goes on where it was interrupted. Rows that are known already are looked for in --tables, in
    ./hardware_tables, in the user's data folder, and among those that come with lana.

    \b
    lana profile timm:efficientnet_b0 --runtime onnxruntime-cpu --threads 1 --out table.csv
    lana profile timm:efficientnet_b0 --bundle out.zip     # for a device without torch: python run.py there
    """
    from lana import pipeline
    from lana.progress import duration

    recipe = _recipe(None, model=model, **options)
    if bundle is not None:
        count = pipeline.bundle(recipe, bundle, quiet=quiet)
        click.echo(f"{bundle}: {count} computations. On the device: unzip it, then python run.py")
        return
    path = out or Path(f"{model.replace(':', '-').replace('/', '-')}-{recipe.runtime}.csv")
    begun_s = time.monotonic()
    table = pipeline.profile(recipe, path, tables=tables, fresh=fresh, quiet=quiet)
    frame, took = table.rows, duration(time.monotonic() - begun_s)
    failed, noisy = int((frame["error"] != "").sum()), int(frame["noisy"].sum())
    click.echo(f"{path}: {len(table)} rows, {noisy} noisy, {failed} failed; took {took}")


@main.command()
@click.argument("pool", required=False)
@as_json
def pool(pool: str | None, json_output: bool) -> None:
    """List the presets of operations, with families and counts; or what POOL holds.

    \b
    lana pool
    lana pool default,my_ops.py
    """
    from rich.console import Console
    from rich.table import Table

    from lana.operations import PRESETS, pool_counts

    counts = {name: pool_counts(name) for name in ([pool] if pool else PRESETS)}
    if json_output:
        click.echo(json.dumps(counts, indent=1))
        return
    table = Table("family", *counts, title="Operations of a family in each pool")
    for family in dict.fromkeys(family for held in counts.values() for family in held):
        row = [str(held.get(family, "")) for held in counts.values()]
        table.add_row(family, *row)
    table.add_section()
    table.add_row("all", *(str(sum(held.values())) for held in counts.values()))
    Console().print(table)


@main.group()
def table() -> None:
    """Show, merge, check and compare latency tables."""


TABLE = click.argument("table", type=click.Path(path_type=Path))


@table.command()
@TABLE
@click.option("--rows", default=20, help="How many to show, the slowest first.  [default: 20]")
def show(table: Path, rows: int) -> None:
    """Print what TABLE was measured on and its slowest rows.

    \b
    lana table show hardware_tables/mine.csv
    """
    from rich.console import Console
    from rich.table import Table

    from lana.summary import PIPE_WIDTH
    from profilers import LatencyTable

    read = LatencyTable.read(table)
    settings = ", ".join(f"{name} {value}" for name, value in read.header.settings.to_json().items() if value)
    versions = ", ".join(f"{name} {value}" for name, value in read.header.versions.items())
    click.echo(f"{read.header.runtime} ({versions}) on {read.header.device}; {settings}")
    about = ", ".join(f"{name} {value}" for name, value in read.header.environment.items())
    click.echo(f"Begun under: {about}")
    frame = read.rows.sort_values("latency_ms", ascending=False)
    failed, noisy = int((frame["error"] != "").sum()), int(frame["noisy"].sum())
    shown = Table(
        "operation",
        "input",
        "ms",
        "± %",
        "p90 ms",
        "cold ms",
        title=f"{len(frame)} rows, {noisy} noisy, {failed} failed",
    )
    for row in frame.head(rows).itertuples():
        shown.add_row(
            str(row.operation),
            str(row.input_shape),
            f"{row.latency_ms:.4f}",
            f"{100 * float(str(row.interval)):.1f}",
            f"{row.p90_ms:.4f}",
            f"{row.cold_ms:.4f}",
        )
    Console(width=PIPE_WIDTH).print(shown)


@table.command()
@click.argument("tables", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the merged table goes.")
@click.option(
    "--prefer",
    type=click.Choice(["narrower", "ours", "theirs"]),
    default="narrower",
    help="Which row stays where several tables have one.  [default: narrower]",
)
def merge(tables: tuple[Path, ...], out: Path, prefer: str) -> None:
    """Merge TABLES of one device, runtime and setting.

    \b
    lana table merge monday.csv device/table.csv --out both.csv
    """
    from profilers import LatencyTable

    merged = LatencyTable.read(tables[0])
    for path in tables[1:]:
        merged = merged.merge(LatencyTable.read(path), prefer=prefer)
    merged.write(out)
    click.echo(f"{out}: {len(merged)} rows")


@table.command("check")
@click.argument("tables", type=click.Path(path_type=Path), nargs=-1, required=True)
def check_tables(tables: tuple[Path, ...]) -> None:
    """Check that TABLES are whole and unchanged.

    \b
    lana table check hardware_tables/*.csv
    """
    from profilers import LatencyTable

    for path in tables:
        click.echo(f"{path}: {len(LatencyTable.read(path))} rows, whole and unchanged")


@table.command()
@TABLE
@click.argument("other", type=click.Path(path_type=Path))
def diff(table: Path, other: Path) -> None:
    """Compare the rows that TABLE and OTHER share.

    \b
    lana table diff monday.csv tuesday.csv
    """
    from profilers import LatencyTable

    found = LatencyTable.read(table).diff(LatencyTable.read(other)).dropna(subset=["ratio"])
    if found.empty:
        raise UserError(f"{table} and {other} have no row in common.")
    apart = (found["ratio"] - 1).abs()
    click.echo(
        f"{len(found)} rows in both. Ratio of {other} to {table}: median {found['ratio'].median():.4f}, "
        f"median distance {apart.median():.2%}, {(apart <= 0.1).mean():.1%} within 10%. Farthest apart:"
    )
    click.echo(found.loc[apart.sort_values(ascending=False).index].head(10).to_string(index=False))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--budget-ms", type=float, multiple=True, help="Latency budget in milliseconds; one for each --table.")
@budget
@click.option("--max-loss", type=float, help="Instead of a budget: the fastest whose expected loss is at most this.")
@click.option("--pin", multiple=True, help="LAYER=OPERATION that must stand there; may be repeated.")
@click.option("--table", type=click.Path(path_type=Path), multiple=True, help="Table of a device that is not here.")
@click.option(
    "--measured", type=click.Path(path_type=Path), multiple=True, help="measurements.json that came back from a device."
)
@click.option("--name", help="Name of the student.  [default: the budget]")
@click.option("--verify/--no-verify", default=True, help="Measure the student, or trust the prediction.")
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
    verify: bool,
    quiet: bool,
    json_output: bool,
) -> None:
    """Another student from a finished RUN; nothing is distilled again.

    With --table it is for a device that is not here, with several for all of them at once; what --measured reads
    back from them verifies it, or corrects the prediction and solves again.

    \b
    lana select runs/digits-resnet --budget 0.3x --no-verify
    lana select runs/digits-resnet --max-loss 0.2
    lana select runs/digits-resnet --table phone.csv --budget-ms 5 --table board.csv --budget-ms 9
    """
    from lana import pipeline

    silent = quiet or json_output
    if table:
        if len(budget_ms) != len(table) or budget or max_loss is not None or pin:
            raise UserError(
                f"Give one --budget-ms for each --table and nothing else: got {len(budget_ms)}, {len(table)}."
            )
        budgets = dict(zip(table, budget_ms, strict=True))
        found = pipeline.select_for(run, budgets, measured=measured, name=name, quiet=silent)
        _print(found, json_output=json_output)
        return
    if measured:
        raise UserError("--measured is of a device: give its table beside it, with --table and --budget-ms.")
    if len(budget_ms) > 1 or (max_loss is not None and (budget or budget_ms)):
        raise UserError("Give one of --budget, --budget-ms and --max-loss, once.")
    wanted = _budget(budget, budget_ms[0] if budget_ms else None)
    pins = dict(_pin(text) for text in pin)
    summary = pipeline.select(run, wanted, max_loss=max_loss, pins=pins, name=name, verify=verify, quiet=silent)
    _print(summary, json_output=json_output)
    sys.exit(0 if summary.verified or not summary.changed or not verify else 1)


def _pin(text: str) -> tuple[str, str]:
    layer, equals, operation = text.partition("=")
    if not (layer and equals and operation):
        raise UserError(f"--pin {text!r}: expected LAYER=OPERATION, for example layer1.0=identity.")
    return layer, operation


@main.command()
@click.argument("student", type=click.Path(path_type=Path))
@recipe_options("epochs", "lr")
@quiet
@as_json
def finetune(student: Path, epochs: float | None, lr: float | None, quiet: bool, json_output: bool) -> None:
    """Fine-tune STUDENT (RUN/students/NAME) with its teacher, and deliver it anew."""
    from lana import pipeline

    summary = pipeline.finetune(student, epochs=epochs, lr=lr, quiet=quiet or json_output)
    _print(summary, json_output=json_output)


@main.command()
@click.argument("model")
@recipe_options("data", "task", *LOADING, "device")
@as_json
def evaluate(
    model: str, data: str | None, task: str | None, device: str | None, json_output: bool, **options: Any
) -> None:
    """Evaluate a student's folder, or MODEL, on the test split of the data."""
    from lana import pipeline

    if not data:
        raise UserError("No data was given. Give --data, for example --data folder:images.")
    loading = {name: value for name, value in options.items() if value is not None}
    result = pipeline.evaluate(model, data, task=task or "classification", device=device or "cpu", **loading)
    if json_output:
        click.echo(json.dumps({"metric": result.metric, "loss": result.loss, "examples": result.examples}))
    else:
        click.echo(f"{result.metric:.2%} on {result.examples} test examples, loss {result.loss:.4f}")


@main.command()
@click.argument("student", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--form", default="onnx", help="onnx, program (torch.export) or openvino (IR).  [default: onnx]")
@click.option("--dynamic-batch", is_flag=True, help="Leave the number of examples open.")
def export(student: Path, out: Path, form: str, dynamic_batch: bool) -> None:
    """Write the network of STUDENT to the file OUT.

    \b
    lana export runs/digits-resnet/students/0.4x student.onnx --dynamic-batch
    """
    from lana import pipeline

    click.echo(f"Wrote {pipeline.export(student, out, form=form, dynamic_batch=dynamic_batch)}")


@main.command()
@click.argument("target")
@recipe_options(*TARGET)
@click.option("--processes", type=click.IntRange(min=1), default=5, help="Fresh processes to measure in.  [default: 5]")
@as_json
def measure(target: str, processes: int, json_output: bool, **options: Any) -> None:
    """Measure the latency of FILE.onnx or of a student's folder in fresh processes."""
    from lana import pipeline

    recipe = _recipe(None, **options)
    result = pipeline.measure(target, runtime=recipe.runtime, settings=recipe.runtime_settings, processes=processes)
    latencies = sorted(result.reference_ms)
    if json_output:
        click.echo(json.dumps({"latency_ms": latencies[len(latencies) // 2], "processes_ms": result.reference_ms}))
    else:
        click.echo(
            f"{latencies[len(latencies) // 2]:.4f} ms (median of {len(latencies)} processes, "
            f"{latencies[0]:.4f} to {latencies[-1]:.4f}) on {recipe.runtime}, {recipe.threads} thread(s)"
        )


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--validate", type=click.IntRange(min=4), default=60, help="Students to measure in each band.  [default: 60]"
)
@click.option(
    "--budget", multiple=True, help="Band of latency, e.g. 0.5x; may be repeated.  [default: 0.7x 0.5x 0.35x]"
)
@quiet
@as_json
def score(run: Path, validate: int, budget: tuple[str, ...], quiet: bool, json_output: bool) -> None:
    """Measure how truly the scores of a finished RUN rank students of one latency.

    \b
    lana score runs/digits-resnet --validate 60
    """
    from lana.ranking import BANDS
    from lana.ranking import validate as validated
    from lana.recipe import parse_budget

    parsed = [parse_budget(text) for text in budget]
    if any(unit != "x" for _, unit in parsed):
        raise UserError("A band is a share of the teacher's latency: give --budget 0.5x.")
    bands = tuple(value for value, _ in parsed) or BANDS
    _print(validated(run, students=validate, budgets=bands, quiet=quiet or json_output), json_output=json_output)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@budget_ms
@budget
@quiet
@as_json
def compare(run: Path, budget: str | None, budget_ms: float | None, quiet: bool, json_output: bool) -> None:
    """Compare the integer program with other searches on the pool of a finished RUN.

    \b
    lana compare runs/digits-resnet --budget 0.4x
    """
    from lana.compare import compare_searches

    wanted = _budget(budget, budget_ms) or "0.5x"
    _print(compare_searches(run, wanted, quiet=quiet or json_output), json_output=json_output)


@main.command()
@as_json
def runtimes(json_output: bool) -> None:
    """List the runtimes that are available here, and why the others are not."""
    from rich.console import Console
    from rich.table import Table

    from profilers import runtime_statuses

    statuses = runtime_statuses()
    if json_output:
        click.echo(json.dumps([dataclasses.asdict(status) for status in statuses], indent=1, default=str))
        return
    table = Table("runtime", "available", "why not", "install")
    for status in statuses:
        table.add_row(
            status.name,
            "yes" if status.available else "no",
            status.reason,
            "" if status.available else status.install,
        )
    Console().print(table)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Where the page goes.  [default: RUN/report.html]")
@click.option("--plots", is_flag=True, help="Also draw accuracy against latency as SVG and PNG, in RUN/plots.")
@as_json
def report(run: Path, html: Path | None, plots: bool, json_output: bool) -> None:
    """Show the students of RUN beside their teacher, and write the whole report as one HTML file.

    \b
    lana report runs/digits-resnet
    """
    from lana.report import write_report
    from lana.run import Run
    from lana.summary import Summary, show_run

    with Run.open(run) as opened:
        paths = sorted((opened.path / "students").glob("*/summary.json"))
        if not paths:
            raise UserError(f"{run} has no finished student. Make one with: lana select {run} --budget 0.5x")
        summaries = [Summary.read(path) for path in paths]
    if json_output:
        click.echo(json.dumps([dataclasses.asdict(summary) for summary in summaries], indent=1))
        return
    show_run(summaries)
    click.echo(f"Report: {write_report(run, html)}")
    if plots:
        from lana.report.plots import write_plots

        click.echo(f"Plots: {', '.join(map(str, write_plots(run)))}")


if __name__ == "__main__":
    main()
