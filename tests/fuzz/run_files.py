"""Files of a run and a student, damaged: cut, of another type, with a part that lacks or a figure that cannot be."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grammars import GARBAGE, Case
from workplace import Workplace

REPORT, SELECT = ("report", "{run}", "--html", "{out}/r.html"), ("select", "{run}", "--budget", "0.8x", "--no-verify")
TUNE = ("finetune", "{student}", "--epochs", "0.3")
EVALUATE = ("evaluate", "{student}", "--data", "digits")
FIGURES = ["nan", "text", "", "1e400x", "[]"]

# File → the command that reads it, and the parts that it must have.
JSONS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "pool/teacher.json": (REPORT, ("metric", "examples", "teacher_ms", "runtime_versions")),
    "stages.json": (REPORT, ("score",)),
    "students/0.9x/summary.json": (REPORT, ("student", "budget_ms", "teacher_ms", "teacher_parameters", "threads")),
    "students/0.9x/selection.json": (TUNE, ("budget_ms", "predicted_ms", "selection", "selected_metric")),
    "students/0.9x/architecture.json": (EVALUATE, ("teacher", "layers", "selection")),
    "students/0.9x/finetuned.json": (TUNE, ("settings",)),
    "pool/layers.json": (REPORT, ("blocks.1", "blocks.2")),
}
CSVS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "pool/candidates.csv": (REPORT, ("parameters", "macs", "latency_ms", "kept")),
    "pool/scores.csv": (REPORT, ("score", "images")),
    "pool/losses.csv": (REPORT, ("loss", "selection")),
    "pool/measured_students.csv": (REPORT, ("ratios", "selection")),
    "pool/operations/distilled.csv": (SELECT, ("start_error", "restarts")),
}
OTHERS: Mapping[str, Sequence[str]] = {
    "recipe.yaml": REPORT,
    "pool/table.csv": REPORT,
    "students/0.9x/recipe.yaml": TUNE,
    "students/0.9x/model.safetensors": EVALUATE,
    "students/0.9x/selected.safetensors": TUNE,
}


def run_files(place: Workplace, rng: random.Random) -> Iterator[Case]:
    """A damaged file of the run, read by a command that needs it."""

    def case(name: str, command: Sequence[str], content: bytes) -> Case:
        filled = tuple(part.format(run=place.run, out=place.out, student=place.student) for part in command)
        return Case(kind="run files", arguments=filled, files={place.run / name: content})

    for name, (command, parts) in JSONS.items():
        raw = (place.run / name).read_bytes()
        often = 2 if command is REPORT else 1
        for content in _damaged_jsons(raw, parts, rng, often):
            yield case(name, command, content)
    for name, (command, columns) in CSVS.items():
        raw = (place.run / name).read_bytes()
        for content in _damaged_csvs(raw, columns, rng):
            yield case(name, command, content)
    for name, command in OTHERS.items():
        raw = (place.run / name).read_bytes()
        cuts = [raw[: rng.randrange(1, len(raw) - 3)] for _ in range(4)] if "recipe" not in name else []
        for content in (*(one for one in GARBAGE if name.endswith("yaml") or one.strip()), *cuts):
            yield case(name, command, content)


def _damaged_jsons(raw: bytes, parts: Sequence[str], rng: random.Random, often: int) -> Iterator[bytes]:
    content = json.loads(raw)
    yield from (one for one in GARBAGE if one)
    yield from (b"", b"[]", b"null", b"3", b'"x"', b"[[]]", raw[: len(raw) // 2], raw.replace(b"{", b"[", 1))
    for name in parts:
        yield json.dumps({key: value for key, value in content.items() if key != name}).encode()
        wrong: list[Any] = [None, "x", [], {"x": []}, True, 3, -1, float("nan"), [[1]], 0]
        for value in rng.sample(wrong, 3 * often):
            if not _may_be(content[name], value):
                yield json.dumps({**content, name: value}).encode()


def _may_be(before: Any, value: Any) -> bool:
    """True if a value is of the kind that stood there: a number of at least 0 may be a number."""
    numbers = (int, float)
    if isinstance(before, numbers):
        return isinstance(value, numbers) and not isinstance(value, bool)
    return type(before) is type(value) and (isinstance(value, str) or not value)


def _damaged_csvs(raw: bytes, columns: Sequence[str], rng: random.Random) -> Iterator[bytes]:
    rows = list(csv.reader(io.StringIO(raw.decode())))
    yield from (one for one in GARBAGE if one.strip())
    yield b"".join(raw.splitlines(keepends=True)[1:])
    yield raw.replace(b"\n", b',"\n', 1)
    yield raw.replace(b"\n1 of", b"\n1,2,3,1 of", 1)
    for name in columns:
        at = rows[0].index(name)
        yield _text([[*row[:at], *row[at + 1 :]] for row in rows])
        yield _text([[*rows[0][:at], name + "s", *rows[0][at + 1 :]], *rows[1:]])
        for figure in FIGURES:
            if not (figure in ("nan", "") and name in ("latency_ms", "score", "start_error")):
                number = rng.randrange(1, len(rows))
                changed = [list(row) for row in rows]
                changed[number][at] = figure
                yield _text(changed)
    if rows[0][1] == "loop":  # a log: rows that it lost are refused
        for number in range(1, min(len(rows), 12)):
            yield _text([*rows[:number], *rows[number + 1 :]])


def _text(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
