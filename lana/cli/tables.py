"""Commands about latency tables: show, merge, check, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lana.cli.app import Named, main
from lana.cli.options import PATH, as_json, print_json
from lana.errors import UserError


@main.group(cls=Named)
def table() -> None:
    """Show, merge, check and compare latency tables.

    \b
    lana table show hardware_tables/mine.csv
    """


@table.command()
@click.argument("table", type=PATH)
@click.option(
    "--rows",
    type=click.IntRange(1, 10**6),
    default=20,
    help="How many to show, the slowest first; with --json all.  [default: 20]",
)
@as_json
def show(table: Path, rows: int, json_output: bool) -> None:
    """Print what TABLE was measured on and its slowest rows.

    \b
    lana table show hardware_tables/mine.csv
    lana table show hardware_tables/mine.csv --json
    """
    from profilers import LatencyTable

    read = LatencyTable.read(table)
    frame = read.rows.sort_values("latency_ms", ascending=False)
    if json_output:
        print_json({"table": table, **read.header.to_json(), "rows": _records(frame)})
    else:
        _print_table(read.header, frame, rows)


def _print_table(header: Any, frame: Any, rows: int) -> None:
    from rich.table import Table

    from lana.common.console import make_console

    settings = ", ".join(f"{name} {value}" for name, value in header.settings.to_json().items() if value)
    versions = ", ".join(f"{name} {value}" for name, value in header.versions.items())
    click.echo(f"{header.runtime} ({versions}) on {header.device}; {settings}")
    about = ", ".join(f"{name} {value}" for name, value in header.environment.items())
    click.echo(f"Begun under: {about}")
    failed, noisy = int((frame["error"] != "").sum()), int(frame["noisy"].sum())
    columns = ("operation", "input", "ms", "± %", "p90 ms", "cold ms")
    shown = Table(*columns, title=f"{len(frame)} rows, {noisy} noisy, {failed} failed")
    for row in frame.head(rows).itertuples():
        figures = (f"{row.latency_ms:.4f}", f"{100 * row.interval:.1f}", f"{row.p90_ms:.4f}", f"{row.cold_ms:.4f}")
        shown.add_row(str(row.operation), str(row.input_shape), *figures)
    make_console().print(shown)


@table.command()
@click.argument("tables", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="Where the merged table goes.")
@click.option(
    "--prefer",
    type=click.Choice(["narrower", "ours", "theirs"]),
    default="narrower",
    help="The row to keep where several tables have one.  [default: narrower]",
)
@as_json
def merge(tables: tuple[Path, ...], out: Path, prefer: str, json_output: bool) -> None:
    """Merge TABLES of one device, runtime and setting.

    \b
    lana table merge monday.csv device/table.csv --out both.csv
    """
    from profilers import LatencyTable

    merged = LatencyTable.read(tables[0])
    for path in tables[1:]:
        merged = merged.merge(LatencyTable.read(path), prefer=prefer)
    merged.write(out)
    if json_output:
        print_json({"table": out, "rows": len(merged)})
    else:
        click.echo(f"{out}: {len(merged)} rows")


@table.command("check")
@click.argument("tables", type=PATH, nargs=-1, required=True)
@as_json
def check_tables(tables: tuple[Path, ...], json_output: bool) -> None:
    """Check that TABLES are whole and unchanged.

    \b
    lana table check hardware_tables/*.csv
    """
    from profilers import LatencyTable

    rows = {path: len(LatencyTable.read(path)) for path in tables}
    if json_output:
        print_json([{"table": path, "rows": count} for path, count in rows.items()])
    else:
        click.echo("\n".join(f"{path}: {count} rows, whole and unchanged" for path, count in rows.items()))


@table.command()
@click.argument("table", type=PATH)
@click.argument("other", type=PATH)
@as_json
def diff(table: Path, other: Path, json_output: bool) -> None:
    """Compare the rows that TABLE and OTHER share; with --json all of them.

    \b
    lana table diff monday.csv tuesday.csv
    """
    from profilers import LatencyTable

    rows = LatencyTable.read(table).diff(LatencyTable.read(other)).dropna(subset=["ratio"])
    if rows.empty:
        raise UserError(f"{table} and {other} have no row in common. Compare tables of the same networks and pools.")
    apart = (rows["ratio"] - 1).abs()
    rows = rows.loc[apart.sort_values(ascending=False).index]
    figures = {
        "rows": len(rows),
        "median_ratio": float(rows["ratio"].median()),
        "median_distance": float(apart.median()),
        "within_10_percent": float((apart <= 0.1).mean()),
    }
    if json_output:
        print_json({"table": table, "other": other, **figures, "shared": _records(rows)})
        return
    click.echo(
        f"{figures['rows']} rows in both. Ratio of {other} to {table}: median {figures['median_ratio']:.4f}, "
        f"median distance {figures['median_distance']:.2%}, {figures['within_10_percent']:.1%} within 10%. "
        "Farthest apart:"
    )
    click.echo(rows.head(10).to_string(index=False))


def _records(frame: Any) -> list[dict[str, Any]]:
    return frame.reset_index().to_dict("records")
