"""Commands about a device: runtimes, profile, measure, and tables of latencies."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click

from lana.cli.app import main
from lana.cli.options import (
    LOADING,
    PLACES,
    TARGET,
    as_json,
    quiet,
    recipe_of,
    recipe_options,
)
from lana.errors import UserError


@main.command()
@as_json
def runtimes(json_output: bool) -> None:
    """List the runtimes that are available here, and why the others are not.

    \b
    lana runtimes
    lana runtimes --json
    """
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

    recipe = recipe_of(None, model=model, **options)
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
@click.argument("target")
@recipe_options(*TARGET)
@click.option("--processes", type=click.IntRange(min=1), default=5, help="Fresh processes to measure in.  [default: 5]")
@as_json
def measure(target: str, processes: int, json_output: bool, **options: Any) -> None:
    """Measure the latency of FILE.onnx or of a student's folder in fresh processes.

    \b
    lana measure runs/mine/students/8ms/model.onnx --runtime openvino --threads 2
    lana measure net.onnx --processes 9 --json
    """
    from lana import pipeline

    recipe = recipe_of(None, **options)
    result = pipeline.measure(target, runtime=recipe.runtime, settings=recipe.runtime_settings, processes=processes)
    latencies = sorted(result.reference_ms)
    if json_output:
        click.echo(json.dumps({"latency_ms": latencies[len(latencies) // 2], "processes_ms": result.reference_ms}))
    else:
        click.echo(
            f"{latencies[len(latencies) // 2]:.4f} ms (median of {len(latencies)} processes, "
            f"{latencies[0]:.4f} to {latencies[-1]:.4f}) on {recipe.runtime}, {recipe.threads} thread(s)"
        )


@main.group()
def table() -> None:
    """Show, merge, check and compare latency tables.

    \b
    lana table show hardware_tables/mine.csv
    """


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
