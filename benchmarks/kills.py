"""Does a command that is killed at any instant end the same when it is repeated?

    python benchmarks/kills.py --kills 200 --seed 0 --folder runs/kills

A run of the digits example is made without interruption first. Then each command is repeated from the state before it,
killed at up to five random instants, and carried to its end: its results must be those of the uninterrupted one, to the
byte where they are computed, and its files no others. Measurements are random: searches take those of the log, and of a
profile the rows are compared by their keys. The last line counts kills, chains and those that ended otherwise.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from profilers import LatencyTable

BUDGET, OTHER_BUDGET, DEVICE_RATIO, LEAST_S = "0.85x", "0.75x", 0.8, 0.5
OPTIONS = {
    "--pool": "linear_k1,linear_k3,pruned_w0.5",
    "--layers": "blocks.1,blocks.2,blocks.4,blocks.6",
    "--max-span": "1",
    "--distill-epochs": "0.5",
    "--distill-images": "256",
    "--score-images": "200",
    "--refine": "4",
    "--calibrate": "6",
    "--epochs": "0.5",
    "--proposals": "2",
}
READ_BACK = ("measured_students.csv", "teacher.json")
VOLATILE = ("seconds", "predicted_ms", "prediction_error")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A command on the copy of a run: what is taken away before it, and what it must make again."""

    name: str
    arguments: tuple[str, ...]
    removed: tuple[str, ...]
    results: Callable[[Path], Mapping[str, Any]]
    delivered: str = ""  # the file with which a search has ended: repeated, it would make another student


def compress(run: Path) -> tuple[str, ...]:
    return ("compress", "digits-resnet", "--data", "digits", "--budget", BUDGET, "--out", str(run),
            "--keep-over-budget", *[part for pair in OPTIONS.items() for part in pair])  # fmt: skip


def student_of(run: Path, name: str) -> dict[str, Any]:
    """The weights and the selection of a student, without times."""
    folder = run / "students" / name
    chosen = json.loads((folder / "selection.json").read_text())
    weights = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    return {**weights, **{key: value for key, value in chosen.items() if key not in VOLATILE}}


def pool_of(run: Path) -> dict[str, Any]:
    files = [run / "pool" / "scores.csv", *sorted((run / "pool" / "operations").rglob("*.safetensors"))]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def chains(run: Path, budget_ms: str) -> list[Chain]:
    """The commands on a run; `run` is where it lies while they are killed."""
    student, device = f"students/{BUDGET}", f"{run}/devices/device"
    table, measured = str(run / "device.csv"), str(run / "measurements.json")
    return [
        Chain(
            name="compress",
            arguments=compress(run),
            removed=(student, "pool/operations", "pool/scores.csv", "pool/teacher_outputs", "pool/networks"),
            results=lambda run: {**pool_of(run), **student_of(run, BUDGET)},
        ),
        Chain(
            name="select",
            arguments=("select", str(run), "--budget", OTHER_BUDGET, "--keep-over-budget"),
            removed=(f"students/{OTHER_BUDGET}",),
            delivered=f"students/{OTHER_BUDGET}/summary.json",
            results=lambda run: student_of(run, OTHER_BUDGET),
        ),
        Chain(
            name="finetune",
            arguments=("finetune", f"{run}/{student}", "--epochs", "2", "--replace-better", "--keep-over-budget"),
            removed=(),
            results=lambda run: student_of(run, BUDGET),
        ),
        Chain(
            name="profile",
            arguments=("profile", "digits-resnet", "--out", str(run / "own.csv"), "--fresh", "--pool", "linear_k1",
                       "--layers", "blocks.1,blocks.4", "--max-span", "1"),
            removed=("own.csv", "own.samples.jsonl"),
            results=lambda run: {"keys": sorted(LatencyTable.read(run / "own.csv").fields)},
        ),
        Chain(
            name="read back",
            arguments=("select", str(run), "--table", table, "--budget-ms", budget_ms, "--measured", measured,
                       "--name", "back"),
            delivered="students/back/devices.json",
            removed=("students/back", "devices/device/measured_students.csv", "devices/device/teacher.json"),
            results=lambda _: {name: Path(device, name).read_bytes() for name in READ_BACK},
        ),
        Chain(
            name="report",
            arguments=("report", str(run)),
            removed=("report.html",),
            results=lambda run: {"page": (run / "report.html").read_bytes()},
        ),
    ]  # fmt: skip


class Place:
    """A folder with the run, copies of it before and after each command, and a folder of temporary files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}

    def start(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        log = (self.folder / "log.txt").open("ab")
        command = [sys.executable, "-m", "lana", *arguments]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=self.env)

    def whole(self, arguments: Sequence[str]) -> float:
        """Run a command to its end; the seconds that it took."""
        begun_s, code = time.monotonic(), self.start(arguments).wait()
        if code not in (0, 1):
            raise RuntimeError(f"lana {' '.join(arguments)} ended with {code}. See {self.folder / 'log.txt'}.")
        return time.monotonic() - begun_s

    def killed(self, arguments: Sequence[str], after_s: float, *, group: bool) -> bool:
        """Run a command and kill it, or it and its measuring processes; false where it ended before."""
        process = self.start(arguments)
        try:
            code = process.wait(after_s)
        except subprocess.TimeoutExpired:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            return True
        if code not in (0, 1):
            raise RuntimeError(f"lana {' '.join(arguments)} ended with {code}. See {self.folder / 'log.txt'}.")
        return False

    def has_ended(self, chain: Chain) -> bool:
        """True if a search was killed after its last file."""
        path = self.run / chain.delivered
        return bool(chain.delivered) and path.is_file() and not path.with_name("choosing").exists()

    def files(self) -> set[str]:
        """All files of the run, and what is left among temporary files."""
        left = {f"temporary/{path.name}" for path in self.temporary.iterdir() if path.name.startswith("lana")}
        return left | {str(path.relative_to(self.run)) for path in self.run.rglob("*") if path.name != ".lock"}


def prepare(place: Place) -> list[tuple[Chain, float]]:
    """The commands with the seconds that each takes; the uninterrupted run is made where it is not there yet."""
    path = place.folder / "seconds.json"
    took_s: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    if not took_s:
        place.whole(compress(place.run))
        shutil.copy(place.run / "pool" / "table.csv", place.run / "device.csv")
        table = ("--table", str(place.run / "device.csv"), "--budget-ms", budget_there(place.run))
        place.whole(("select", str(place.run), *table))
        measure_there(place.run)
    ready = chains(place.run, budget_there(place.run))
    for chain in ready if not path.is_file() else ():
        saved(place.run, place.folder / f"{chain.name} before")
        took_s[chain.name] = place.whole(chain.arguments)
        saved(place.run, place.folder / f"{chain.name} after")
    path.write_text(json.dumps(took_s))
    return [(chain, took_s[chain.name]) for chain in ready]


def budget_there(run: Path) -> str:
    return f"{DEVICE_RATIO * json.loads((run / 'pool' / 'teacher.json').read_text())['teacher_ms']:.4f}"


def measure_there(run: Path) -> None:
    """Measurements as they come back from a device on which each replaced layer saves a tenth."""
    teacher_ms = json.loads((run / "pool" / "teacher.json").read_text())["teacher_ms"]
    header = LatencyTable.read(run / "device.csv").header
    sent: dict[str, dict[str, str]] = json.loads((run / "devices" / "device" / "sent.json").read_text())
    networks = [
        {"name": name, "ratios": [1 - 0.1 * len(chosen) + 1e-4 * process for process in range(5)],
         "reference_ms": [teacher_ms] * 5}
        for name, chosen in sent.items()
    ]  # fmt: skip
    content = {"label": "device", "runtime": header.runtime, "settings": header.settings.to_json(),
               "device": header.device, "networks": networks}  # fmt: skip
    (run / "measurements.json").write_text(json.dumps(content))


def saved(run: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)


def before(place: Place, chain: Chain) -> None:
    """The state before the command, with the log of its measurements: a search takes them from there."""
    saved(place.folder / f"{chain.name} before", place.run)
    for name in chain.removed:
        path = place.run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if chain.name in ("compress", "select"):
        for name in ("measured_students.csv", "losses.csv"):
            shutil.copy(place.folder / f"{chain.name} after" / "pool" / name, place.run / "pool" / name)
    if chain.name == "compress":
        stages = json.loads((place.run / "stages.json").read_text())
        kept = {name: entry for name, entry in stages.items() if name in ("teacher", "profile")}
        (place.run / "stages.json").write_text(json.dumps(kept))


def differing(place: Place, chain: Chain) -> Iterator[str]:
    """The files of a chain that differ from those of the uninterrupted command."""
    after = place.folder / f"{chain.name} after"
    found, files = chain.results(place.run), place.files()
    saved(place.run, place.folder / "last")
    saved(after, place.run)
    expected, expected_files = chain.results(place.run), place.files()
    yield from (f"another {name}" for name in expected if found.get(name) != expected[name])
    yield from (f"left {name}" for name in sorted(files - expected_files))
    yield from (f"lacks {name}" for name in sorted(expected_files - files) if not name.startswith("temporary"))


@click.command()
@click.option("--kills", default=200)
@click.option("--seed", default=0)
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "lana-kills")
def main(kills: int, seed: int, folder: Path) -> None:
    place, rng = Place(folder.resolve()), random.Random(seed)
    timed = prepare(place)
    print("seconds uninterrupted:", ", ".join(f"{one.name} {took_s:.0f}" for one, took_s in timed), flush=True)
    done = ended = wrong = 0
    while done < kills:
        chain, took_s = rng.choice(timed)
        before(place, chain)
        turns, here = rng.randint(1, 5), 0
        for _ in range(turns):
            after_s, group = rng.uniform(LEAST_S, took_s), rng.random() < 0.5
            if not place.killed(chain.arguments, after_s, group=group):
                break
            here += 1
            if place.has_ended(chain):
                break
        else:
            place.whole(chain.arguments)
        faults = list(differing(place, chain))
        done, ended, wrong = done + here, ended + 1, wrong + bool(faults)
        print(f"{done:4} {chain.name}: {here} kills, {'; '.join(faults[:6]) or 'the same'}", flush=True)
    print(f"{done} kills in {ended} chains: {wrong} ended otherwise", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
