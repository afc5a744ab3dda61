"""Commands about a device: runtimes, survey, profile, measure, fleet."""

from __future__ import annotations

import dataclasses
import statistics
import time
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
    print_json,
    print_result,
    quiet,
    recipe_of,
    recipe_options,
    trust,
)
from lana.common.progress import counted
from lana.config.folders import onnx_file
from lana.config.references import check_data, check_model


@main.command()
@as_json
def runtimes(json_output: bool) -> None:
    """List the runtimes that are available here, and why the others are not.

    \b
    lana runtimes
    lana runtimes --json
    """
    from rich.table import Table

    from lana.common.console import make_console
    from profilers import runtime_statuses

    statuses = runtime_statuses()
    if json_output:
        print_json([dataclasses.asdict(status) for status in statuses])
        return
    table = Table("runtime", "available", "why not", "install")
    for status in statuses:
        table.add_row(
            status.name,
            "yes" if status.available else "no",
            status.reason,
            "" if status.available else status.install,
        )
    make_console().print(table)


@main.command()
@click.argument("model")
@recipe_options("data", "task", "decode", *LOADING)
@click.option("--threads", type=click.IntRange(1, 4096), multiple=True, help="May be repeated.  [default: 1 and all]")
@quiet
@as_json
def survey(
    model: str,
    data: str | None,
    task: str | None,
    decode: str | None,
    threads: tuple[int, ...],
    json_output: bool,
    **options: Any,
) -> None:
    """Measure MODEL as it is on every runtime of this machine, in each precision: what costs no training.

    With --data, int8 is calibrated on training images and the accuracy of each precision is evaluated.

    \b
    lana survey timm:mobilenetv2_100
    lana survey net.py:mine --weights mine.safetensors --data folder:images --json
    """
    check_model(model)
    if data is not None:
        check_data(data)
    from lana.evaluation.examples import make_task
    from lana.models.teacher import load_teacher
    from lana.survey import survey as surveyed

    network = load_teacher(model, **options)
    judged = make_task(task or "classification", network, decode)
    print_result(surveyed(network, judged, data, threads=threads), json_output=json_output)


@main.command()
@click.argument("model")
@recipe_options(*LOADING, *TARGET, "precisions", "pool", *PLACES)
@click.option("--out", type=PATH, default=None, help="The table.  [default: MODEL-RUNTIME.csv]")
@click.option("--tables", type=PATH, help="A folder of tables whose rows need not be measured.")
@click.option("--fresh", is_flag=True, help="Measure all rows anew; reuse none from other tables.")
@click.option("--bundle", type=PATH, help="Write an archive that measures on another device.")
@quiet
@as_json
def profile(
    model: str,
    out: Path | None,
    tables: Path | None,
    fresh: bool,
    bundle: Path | None,
    json_output: bool,
    **options: Any,
) -> None:
    """Measure the latency table of this machine for MODEL's layers and the pool; needs no data.

    The same command resumes an interrupted sweep. Rows measured before are taken from the tables in --tables, in
    ./hardware_tables, in the user's data folder, and from those that come with lana.

    \b
    lana profile timm:efficientnet_b0 --runtime onnxruntime-cpu --threads 1 --out table.csv
    lana profile timm:efficientnet_b0 --bundle out.zip     # for a device without lana: python run.py there
    """
    recipe = recipe_of(None, measured_here=bundle is None, model=model, **options)
    from lana import standalone
    from lana.common.progress import duration

    if bundle is not None:
        count = standalone.bundle(recipe, bundle)
        if json_output:
            print_json({"bundle": bundle, "computations": count})
        else:
            click.echo(f"{bundle}: {count} computations. On the device: unzip it, then python run.py")
        return
    path = out or Path(f"{model.replace(':', '-').replace('/', '-')}-{recipe.profiling.runtime}.csv")
    begun_s = time.monotonic()
    table = standalone.profile(recipe, path, tables=tables, fresh=fresh)
    frame, took_s = table.rows, time.monotonic() - begun_s
    failed, noisy = int((frame["error"] != "").sum()), int(frame["noisy"].sum())
    if json_output:
        print_json({"table": path, "rows": len(table), "noisy": noisy, "failed": failed, "seconds": round(took_s, 2)})
    else:
        click.echo(f"{path}: {len(table)} rows, {noisy} noisy, {failed} failed; took {duration(took_s)}")


@main.command()
@click.argument("targets", metavar="FILE...", nargs=-1, required=True)
@recipe_options(*TARGET)
@click.option(
    "--processes", type=click.IntRange(1, 1024), default=5, help="Fresh processes to measure in.  [default: 5]"
)
@as_json
def measure(targets: tuple[str, ...], processes: int, json_output: bool, **options: Any) -> None:
    """Measure the latency of FILE.onnx or of a student's folder in fresh processes.

    Several files are measured side by side: each as its ratio to the first, with the 95% interval.

    \b
    lana measure runs/mine/students/8ms/model.onnx --runtime openvino --threads 2
    lana measure net.onnx --processes 9 --json
    lana measure net.onnx runs/mine/students/8ms
    """
    profiling = recipe_of(None, **options).profiling
    for target in targets:
        onnx_file(target)
    from lana import standalone
    from lana.selection.confidence import interval_95

    results = standalone.measure(
        *targets, runtime=profiling.runtime, settings=profiling.runtime_settings, processes=processes
    )
    each_ms = results[0].reference_ms
    first_ms = statistics.median(each_ms)
    rows: list[dict[str, Any]] = [{"file": targets[0], "latency_ms": first_ms, "processes_ms": each_ms}]
    for target, one in zip(targets[1:], results[1:], strict=True):
        compared = {"ratio": one.ratio, "ratio_interval95": interval_95(one.ratios), "ratios": one.ratios}
        rows.append({"file": target, "latency_ms": one.ratio * first_ms, **compared})
    if json_output:
        print_json({**rows[0], **({"beside": rows[1:]} if rows[1:] else {})})
        return
    click.echo(
        f"{first_ms:.4f} ms (median of {len(each_ms)} processes, "
        f"{min(each_ms):.4f} to {max(each_ms):.4f}) on {profiling.runtime}, {counted(profiling.threads, 'thread')}"
    )
    for row in rows[1:]:
        low, high = row["ratio_interval95"]
        click.echo(
            f"{row['latency_ms']:.4f} ms: {row['ratio']:.3f} ({low:.3f} to {high:.3f}) of the first: {row['file']}"
        )


@main.command()
@click.argument("file", type=PATH)
@trust
@quiet
@as_json
def fleet(file: Path, json_output: bool) -> None:
    """Make a student of one run for each device of the YAML file FILE, measured where it runs.

    Devices are here, reached over SSH, or nodes of a Ray cluster. Repeat the command for what was offline.

    \b
    lana fleet fleet.yaml
    """
    from lana.config.fleet_file import read_fleet

    read_fleet(file)  # a mistake is told before anything is loaded
    from lana import pipeline

    summary = pipeline.fleet(file)
    print_result(summary, json_output=json_output)
    click.get_current_context().exit(0 if summary.verified else 1)
