"""Computations with a runner for a device that has no lana: Python, NumPy and the runtime suffice.

    unzip out.zip -d work && cd work && python run.py

The runner is this package itself, copied into the archive. It measures single computations into a latency table, or
whole networks, paired with a reference, into `measurements.json`.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profilers.comparison import Comparison, compare
from profilers.computation import Computation
from profilers.errors import BuildFailed, ProfilerError
from profilers.half_precision import in_precision
from profilers.registry import RUNTIMES, create_runtime, find_runtime
from profilers.runtime import RuntimeSettings
from profilers.sweep import Progress, device_of, profile
from profilers.table_columns import is_positive

TABLE, MEASUREMENTS = "table.csv", "measurements.json"
LEAST_RATIO = 1e-4  # of latencies that are believed: a log keeps five digits behind the point
_KINDS = ("table", "networks")

_RUN = '''\
"""Measures this archive's computations into {result}, next to this file. Needs Python 3.11, numpy {packages}."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
if sys.version_info < (3, 11):
    sys.exit("This needs Python 3.11 or newer, it is run by " + sys.version.split()[0] + ".")
try:
    from profilers.bundle import run
except ImportError as error:
    sys.exit(f"{{error}}. Install: python -m pip install numpy {packages}")
from profilers.errors import BuildFailed, ProfilerError
from profilers.half_precision import in_precision

try:
    run(here, sys.argv[1:])
except (ProfilerError, OSError) as error:
    sys.exit(f"{{error}}")
except KeyboardInterrupt:
    sys.exit("Interrupted. Run it again: {kept}")
'''

_README = """\
Measures computations on this device for lana. Python 3.11 or newer:

    python -m pip install numpy {packages}
    python run.py [--runtime {runtime}] [--threads {threads}]

Nothing else should run at the same time. It may be stopped and started again: {kept} Send {result} back.
"""


def format_on_device(runtime: str, have: str | None = None) -> str:
    """The format of files that a runtime runs, which need not be installed here.

    Raises:
        ProfilerError: there is no such runtime, or it runs files of another format than those there are.

    >>> format_on_device("torch-cuda")
    'torch_export'
    """
    format = find_runtime(runtime)[0].format
    if have not in (format, None):
        fit = [name for name in RUNTIMES if find_runtime(name)[0].format == have]
        raise ProfilerError(
            f"Runtime {runtime!r} runs files of format {format!r}, the archive's are {have!r}. "
            f"Give one of: {', '.join(fit)}; or make another archive for it."
        )
    return format


def write_bundle(
    path: Path | str,
    computations: Sequence[Computation],
    *,
    runtime: str,
    settings: RuntimeSettings,
    kind: str = "table",
    processes: int = 5,
    label: str = "",
) -> Path:
    """Write an archive that measures these computations; for "networks" the first one is the reference.

    `label` comes back with what is measured.

    Raises:
        ProfilerError: nothing to measure, an unknown kind, or a runtime that runs files of another format.
    """
    if kind not in _KINDS or not computations:
        raise ProfilerError(
            f"kind={kind!r}, {len(computations)} computations: expected one of {_KINDS}, and at least one."
        )
    for computation in computations:
        format_on_device(runtime, computation.format)
    precision = find_runtime(runtime)[0].file_precision(settings)
    path, names = Path(path), {"table": TABLE, "networks": MEASUREMENTS}
    kept = "finished measurements are kept." if kind == "table" else "it begins anew."
    job = {"kind": kind, "runtime": runtime, "settings": settings.to_json(), "processes": processes, "label": label}
    texts = {
        "result": names[kind],
        "runtime": runtime,
        "packages": find_runtime(runtime)[1].removeprefix("pip install "),
        "threads": settings.threads,
        "kept": kept,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place when it is finished: an archive is never half written.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as name:
        temporary = Path(name) / path.name
        if precision is not None:  # converted here: a device has no package that can
            computations = [_converted(one, precision, Path(name)) for one in computations]
        _fill(temporary, computations, texts, job)
        temporary.replace(path)
    return path


def _converted(computation: Computation, precision: str, folder: Path) -> Computation:
    """One that cannot be converted goes as it is: the device reports it in its row."""
    try:
        return in_precision(computation, precision, folder)
    except BuildFailed:
        return computation


def _fill(
    path: Path, computations: Sequence[Computation], texts: Mapping[str, object], job: Mapping[str, object]
) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        archive.writestr("run.py", _RUN.format(**texts))
        archive.writestr("README.txt", _README.format(**texts))
        for source in sorted(Path(__file__).parent.glob("*.py")):
            archive.write(source, f"profilers/{source.name}")
        listed = []
        for index, computation in enumerate(computations):
            folder = f"computations/{index:04d}"
            inside = f"{folder}/computation{computation.file.suffix}"
            archive.write(computation.file, inside)
            for name in computation.beside:
                archive.write(computation.file.parent / name, f"{folder}/{name}")
            listed.append({**computation.to_json(path.parent), "file": inside})
        archive.writestr("job.json", json.dumps({**job, "computations": listed}, indent=1))


def run(folder: Path, arguments: Sequence[str]) -> Path:
    """Run the unpacked archive, as `run.py` does; return the path of the result."""
    import argparse

    job = json.loads((folder / "job.json").read_text())
    settings = RuntimeSettings.from_json(job["settings"])
    parser = argparse.ArgumentParser(prog="run.py")
    parser.add_argument("--runtime", default=job["runtime"])
    parser.add_argument("--threads", type=int, default=settings.threads)
    options = parser.parse_args(arguments)
    settings = RuntimeSettings.from_json({**settings.to_json(), "threads": options.threads})
    computations = [Computation.from_json(fields, folder) for fields in job["computations"]]
    format_on_device(options.runtime, computations[0].format)
    if job["kind"] == "table":
        path = folder / TABLE
        profile(computations, runtime=options.runtime, settings=settings, table=path, progress=_tell)
    else:
        path = folder / MEASUREMENTS
        networks = _networks(computations, options.runtime, settings, job)
        path.write_text(json.dumps(networks, indent=1))
    print(f"Wrote {path}")
    return path


def _networks(
    computations: Sequence[Computation], runtime: str, settings: RuntimeSettings, job: dict[str, Any]
) -> dict[str, Any]:
    from profilers.environment import environment

    comparisons = compare(
        computations[0],
        computations[1:],
        runtime=runtime,
        settings=settings,
        processes=job["processes"],
        progress=_tell,
    )
    return {
        "label": job["label"],
        "runtime": runtime,
        "settings": settings.to_json(),
        "device": device_of(create_runtime(runtime, settings)),
        "environment": environment(),
        "networks": [
            {"name": computation.name, **vars(comparison)}
            for computation, comparison in zip(computations[1:], comparisons, strict=True)
        ],
    }


@dataclass(frozen=True, kw_only=True)
class NetworkMeasurements:
    """The network measurements that a device sent back: name → its comparison with the reference."""

    label: str
    runtime: str
    settings: RuntimeSettings
    device: str
    networks: dict[str, Comparison]


def read_measurements(path: Path | str) -> NetworkMeasurements:
    """Read a `measurements.json`; nothing in it is believed unchecked, for it comes from elsewhere.

    Raises:
        ProfilerError: it is not one, or its figures cannot be.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        texts = {name: content[name] for name in ("label", "runtime", "device")}
        names = [entry["name"] for entry in content["networks"]]
        if not all(isinstance(text, str) for text in (*texts.values(), *names)) or len(set(names)) < len(names):
            raise ValueError("label, runtime, device and the networks' names are not text, or a name occurs twice")
        networks = {entry["name"]: _comparison(entry) for entry in content["networks"]}
        return NetworkMeasurements(**texts, settings=RuntimeSettings.from_json(content["settings"]), networks=networks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ProfilerError) as error:
        raise ProfilerError(
            f"{path} holds no measurements of networks ({type(error).__name__}: {str(error)[:300]}). "
            f"Expected the {MEASUREMENTS} that a bundle's run.py writes: run it again on the device."
        ) from error


def _comparison(entry: Mapping[str, Any]) -> Comparison:
    """A network's figures, one a process.

    Raises:
        ValueError: they cannot be.
    """
    figures = {name: entry[name] for name in ("ratios", "reference_ms")}
    for name, values in figures.items():
        if not isinstance(values, list) or not values or not all(map(is_positive, values)):
            raise ValueError(
                f"{name} of {entry['name'][:80]!r} are {str(values)[:80]}, expected finite numbers above 0"
            )
    if len(figures["ratios"]) != len(figures["reference_ms"]):
        raise ValueError(f"{entry['name'][:80]!r} has not as many ratios as reference_ms")
    if min(figures["ratios"]) < LEAST_RATIO:
        raise ValueError(f"a ratio of {entry['name'][:80]!r} is below {LEAST_RATIO}: no network is so much faster")
    count, calm, waited = len(figures["ratios"]), entry.get("calm", []), entry.get("waited", [])  # older ones lack them
    if len(calm) not in (0, count) or not all(isinstance(flag, bool) for flag in calm):
        raise ValueError(f"calm of {entry['name'][:80]!r} is not true or false for each ratio")
    if len(waited) not in (0, count) or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in waited):
        raise ValueError(f"waited of {entry['name'][:80]!r} is not a share from 0 to 1 for each ratio")
    return Comparison(
        **{name: tuple(values) for name, values in figures.items()},
        calm=tuple(calm),
        waited=tuple(waited),
        watched=str(entry.get("watched", ""))[:80],
    )


def _tell(progress: Progress) -> None:
    left = "" if progress.seconds_left is None else f", about {progress.seconds_left:.0f} s left"
    print(f"{progress.done}/{progress.total} {progress.name}{left}", flush=True)
