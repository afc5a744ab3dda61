"""Thousands of wrong inputs: each ends in exit code 2 with one bounded message, and damages no file.

    python tests/fuzz/wrong_inputs.py --count 2000 --seed 0 --folder /tmp/wrong-inputs

prints each input that does not, and the counts.
"""

from __future__ import annotations

import collections
import contextlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import click
from click.testing import CliRunner
from contents import data_functions, measurements, weights
from grammars import Case, options, recipes, tables
from run_files import run_files
from workplace import Workplace, make_workplace

from lana.cli import main

LONGEST_MESSAGE = 4000  # characters, with click's lines of usage
LIMIT_S = 40  # a wrong input that works on for so long was accepted
GRAMMARS: Sequence[Callable[[Workplace, random.Random], Iterator[Case]]] = (
    options, recipes, tables, run_files, measurements, weights, data_functions,
)  # fmt: skip


def cases(place: Workplace, count: int, seed: int, kind: str | None = None) -> list[Case]:
    """So many of all grammars' inputs, as many of each where it has them; the seed decides which."""
    rng = random.Random(seed)
    listed = [
        list({(case.arguments, *case.files.values()): case for case in grammar(place, rng)}.values())
        for grammar in GRAMMARS
        if kind in (None, grammar.__name__)
    ]
    chosen: list[Case] = []
    for left, of_grammar in zip(range(len(listed), 0, -1), sorted(listed, key=len), strict=True):
        share = min(len(of_grammar), (count - len(chosen)) // left)  # what a small grammar lacks, larger ones have more
        chosen += rng.sample(of_grammar, share)
    return chosen


def fault(case: Case, place: Workplace) -> str:
    """How an input was not treated as it should be; empty where it was."""
    before = {path: path.read_bytes() if path.is_file() else None for path in case.files}
    for path, content in case.files.items():
        path.write_bytes(content)
    digest, late = place.digest(), False

    def alarm(_: int, __: FrameType | None) -> None:
        nonlocal late
        late = True
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(LIMIT_S)
    try:
        result = CliRunner().invoke(main, [str(part) for part in case.arguments])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)
        damaged = place.digest() != digest or any(
            not path.is_file() or path.read_bytes() != content for path, content in case.files.items()
        )
        for path, content in before.items():
            with contextlib.suppress(FileNotFoundError):
                path.unlink() if content is None else path.write_bytes(content)
    if late:
        return "accepted: it works on"
    if "Traceback" in result.output or result.exit_code == 70:
        return f"traceback: {result.output[-600:]}"
    if result.exit_code != 2:
        return f"accepted: exit code {result.exit_code}: {result.output[-300:]}"
    if not 10 < len(result.output) <= LONGEST_MESSAGE:
        return f"no bounded message: {len(result.output)} characters: {result.output[:300]!r}"
    return f"damaged a file: {result.output[-300:]}" if damaged else ""


def counted_faults(place: Workplace, count: int, seed: int, kind: str | None = None) -> collections.Counter:
    """The faults of so many wrong inputs by kind, as ("options", "traceback"); "" is none."""
    found: collections.Counter = collections.Counter()
    for case in cases(place, count, seed, kind):
        wrong = fault(case, place)
        found[case.kind, wrong.partition(":")[0]] += 1
        if wrong:
            print(f"{case}\n    {wrong}", flush=True)
    return found


@click.command()
@click.option("--count", default=2000)
@click.option("--seed", default=0)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--kind", help="Of one kind only.")
def command(count: int, seed: int, folder: Path, kind: str | None) -> None:
    place, begun_s = make_workplace(folder), time.monotonic()
    found = counted_faults(place, count, seed, kind=kind)
    for (of, wrong), number in sorted(found.items()):
        print(f"{of:16} {wrong or 'right':24} {number:5}")
    faults = sum(number for (_, wrong), number in found.items() if wrong)
    print(f"{found.total()} wrong inputs, {faults} faults, {time.monotonic() - begun_s:.0f} s")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    command()
