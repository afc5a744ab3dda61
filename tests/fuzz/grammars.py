"""Wrong inputs, from declared grammars: each is a command line with the files that it reads, all surely wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
from workplace import Workplace

from lana.cli import main
from lana.config.recipe import OPTIONS, Recipe
from profilers import LatencyTable, table_file

NO_NUMBERS = ["", "text", "nan", "inf", "-inf", "1e400", "9" * 400, "0x10", "1,5", "½", "--", "None", "1 2", "[1]"]
GARBAGE = [b"", b"\x00\xff\xfe" * 40, b"\xef\xbb\xbf", b"[" * 3000, b"\n" * 50, b"PK\x03\x04 no archive", b"%PDF-1.7\n"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line that must end in exit code 2, and the files that it finds."""

    kind: str
    arguments: tuple[str, ...]
    files: Mapping[Path, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        held = "; ".join(f"{path.name}: …{content[-160:]!r}" for path, content in self.files.items())
        return f"{self.kind}: lana {' '.join(map(str, self.arguments))[:400]}{' with ' if held else ''}{held}"


# --- options ---------------------------------------------------------------------------------------------------------

REFERENCES = [
    "",
    "nothing",
    "timm:",
    "timm:resnet180",
    "torchvision:nothing",
    "missing.py:f",
    "net.py",
    ":",
    "x" * 5000,
]
TEXTS = {
    "model": REFERENCES,
    "data": [
        "",
        "nothing",
        "folder:",
        "folder:/nowhere",
        "npz:/nowhere.npz",
        "parquet:/nowhere",
        "missing.py:f",
        "hf:",
    ],
    "task": ["", "nothing", "missing.py:Task", "net.py"],
    "weights": ["/nowhere.pt", "", "."],
    "model_args": ["x", "=", "a=b=c,", "depth=3", "1=2"],
    "layers": ["nothing.*", "", "[", "blocks.99"],
    "exclude": ["nothing.*", "blocks.99"],
    "pool": [
        "",
        ",",
        "nothing",
        "linear_k",
        "missing.py",
        "-",
        "pruned_w9",
        "pruned_w0.5.5",
        "linear_k0",
        "linear_k1.5",
    ],
    "runtime": ["", "nothing", "onnx", "ONNXRUNTIME"],
    "device": ["", "tpu", "cuda:99", "gpu", "cpu:x"],
    "budget": ["", "0x", "-1x", "x", "1", "nanx", "1e999x", "0.5 y", "ms", "0.5xx", "9" * 400 + "x"],
    "precision": ["", "fp7", "int8"],
}
COMPRESS = ("compress", "digits-resnet", "--data", "digits", "--budget", "0.5x", "--out", "{out}")


def _beyond(name: str) -> list[str]:
    """Numbers just outside of an option's bounds."""
    limits, found = OPTIONS[name].limits, []
    for limit, beyond in (("least", -1), ("most", 1), ("above", 0), ("below", 0)):
        if (bound := limits.get(limit)) is not None:
            found += [str(bound + beyond), str(bound + beyond * 1000)]
    return found


def wrong_values(name: str) -> list[str]:
    """Values that an option of the recipe must refuse."""
    option = OPTIONS[name]
    kinds = str(option.type)
    if option.limits.get("choices"):
        return ["", "nothing", option.limits["choices"][0].upper(), f"{option.limits['choices'][0]} "]
    if "int" in kinds or "float" in kinds:
        fractions = ["1.5", "0.5"] if "int" in kinds else []
        lists = ["1,,2", "a,b", "nan,1", ","] if "tuple" in kinds else []
        numbers = [value for value in NO_NUMBERS if not ("tuple" in kinds and value == "1,5")]
        return [*numbers, *fractions, *lists, *_beyond(name)]
    return TEXTS.get(name, [])


def flags_of(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option) and not one.is_flag]


def options(place: Workplace, rng: random.Random) -> Iterator[Case]:
    """A value that an option must refuse, an option that there is not, a value that lacks, arguments too many."""
    bases = {
        "compress": COMPRESS,
        "select": ("select", "{run}", "--budget", "0.5x", "--no-verify"),
        "finetune": ("finetune", "{student}"),
        "evaluate": ("evaluate", "digits-resnet", "--data", "digits"),
        "measure": ("measure", "{student}"),
        "survey": ("survey", "digits-resnet"),
        "profile": ("profile", "digits-resnet", "--out", "{out}/t.csv"),
        "layers": ("layers", "digits-resnet"),
        "export": ("export", "digits-resnet", "{out}/net.onnx"),
        "validate-scores": ("validate-scores", "{run}"),
        "compare": ("compare", "{run}"),
        "report": ("report", "{run}"),
    }
    for name, base in bases.items():
        command = main.commands[name]
        filled = tuple(part.format(out=place.out, run=place.run, student=place.student) for part in base)
        for one in flags_of(command):
            declared = one.name in OPTIONS and not (name == "survey" and one.name == "threads")
            values = wrong_values(str(one.name)) if declared else _wrong_of_click(one)
            for value in values:
                yield Case(kind="options", arguments=(*filled, one.opts[0], value))
            yield Case(kind="options", arguments=(*filled, one.opts[0]))
            yield Case(kind="options", arguments=(*filled, one.opts[0] + "x", "1"))
        for _ in range(12):
            word = "".join(rng.choice("abcdefgh-_.[]/") for _ in range(rng.randrange(1, 30)))
            yield Case(kind="options", arguments=(*filled, f"--no-such-{word}"))
            yield Case(kind="options", arguments=(*filled, *("more",) * rng.randrange(3, 9)))
    for word in ("", "compres", "selct", "[/b]", "x" * 4000, "--nothing", "table"):
        yield Case(kind="options", arguments=(word, "nothing"))


def _wrong_of_click(one: click.Option) -> list[str]:
    kind = type(one.type).__name__
    if kind in ("FloatParamType", "FloatRange", "IntParamType", "IntRange"):
        return [value for value in NO_NUMBERS if "." not in value] + ["0", "-1"]
    others = {
        "name": ["", "a/b", "..", "x" * 300, "\x1b[31m"],
        "pin": ["", "=", "blocks.1", "nothing=identity", "blocks.1=nothing"],
        "budget": TEXTS["budget"],
        "format": ["", "nothing", "ONNX"],
        "precisions": ["", "int3", "int8,"],
        "recipe": ["/nowhere.yaml", "."],
        "table": ["/nowhere.csv", "."],
        "measured": ["/nowhere.json", "."],
        "tables": ["/nowhere"],
    }
    return others.get(str(one.name), [])


# --- recipes ---------------------------------------------------------------------------------------------------------

YAMLS = [
    "[1, [2]]",
    "{a: 1}",
    "!!python/object/apply:os.system [ls]",
    "2020-01-01",
    ".nan",
    ".inf",
    "'text'",
    "9" * 400,
]
FILES = [
    b"", b"[]\n", b"text\n", b"\tmodel: x\n", b"model: [\n", b"? a\n? b\n", b"3: 4\n", b"null: 1\n", b"'': 1\n",
    b"model: &a [*a]\n", b"<<: [1]\n", b"model: x\n---\nmodel: y\n", b"model: 'x\n", b"%YAML 9.9\n--- x\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b]\n", b"model: !!binary x\n",
]  # fmt: skip


def recipes(place: Workplace, rng: random.Random) -> Iterator[Case]:
    """A recipe with a line that is none, an option that there is not or is twice, or a value of another type."""
    path = place.out / "recipe.yaml"
    arguments = ("compress", "--recipe", str(path), "--out", str(place.out / "run"))
    lines = [
        line
        for line in Recipe(model="digits-resnet", data="digits", budget="0.5x").to_yaml().splitlines()
        if line and not line.startswith("#")
    ]

    def case(content: str | bytes) -> Case:
        raw = content if isinstance(content, bytes) else content.encode()
        return Case(kind="recipes", arguments=arguments, files={path: raw})

    yield from (case(content) for content in (*GARBAGE, *FILES))
    for number, line in enumerate(lines):
        name = line.partition(":")[0]
        others = [*lines[:number], *lines[number + 1 :]]

        def with_line(changed: str, others: list[str] = others) -> Case:
            place_of_it = rng.randrange(len(others) + 1)
            return case("\n".join([*others[:place_of_it], changed, *others[place_of_it:]]) + "\n")

        yield with_line(f"{name}x: 1")
        yield with_line(line.replace(":", "", 1))
        yield with_line(f"{line}\n{line}")
        yield with_line(f"  {line}") if number else with_line(f"{name}: [")
        numeric = "int" in str(OPTIONS[name].type) or "float" in str(OPTIONS[name].type)
        for value in YAMLS if numeric else YAMLS[:3]:
            yield with_line(f"{name}: {value}")
        if OPTIONS[name].type is not bool:
            yield with_line(f"{name}: true")
        for value in rng.sample(wrong_values(name), min(4, len(wrong_values(name)))):
            if value not in ("None", "[1]"):
                yield with_line(f"{name}: {json.dumps(value)}")


# --- tables ----------------------------------------------------------------------------------------------------------


def tables(place: Workplace, rng: random.Random) -> Iterator[Case]:
    """A latency table that was cut, changed without its checks, or has the right checks and figures that cannot be."""
    whole, path = place.table.read_bytes(), place.out / "device.csv"
    table = LatencyTable.read(place.table)
    lines = whole.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith(b"#")) + 1
    contents = [*GARBAGE]
    for _ in range(60):
        row, cut = rng.randrange(first, len(lines) - 1), rng.randrange(3, len(whole))
        contents += [
            whole[:-cut],
            b"".join([*lines[:row], *lines[row + 1 :]]),
            b"".join([*lines[:row], lines[row], *lines[row:]]),
            b"".join([*lines[:row], _other_digit(lines[row], rng), *lines[row + 1 :]]),
            b"".join(lines[: (head := rng.randrange(first - 1))] + lines[head + 1 :]),
        ]
    for _ in range(40):
        row = dict(rng.choice([one for one in table.fields.values() if not one["error"]]))
        row[rng.choice(["latency_ms", "p90_ms", "cold_ms", "raw_ms"])] = rng.choice(
            ["0", "-0.1", "nan", "inf", "x", ""]
        )
        contents.append(table_file.render(table.header, [table_file.seal_row(table.header, row)]).encode())
    others = str(place.table)
    for content in contents:
        command: tuple[str, ...] = rng.choice(
            [("table", "check", str(path)), ("table", "show", str(path)), ("table", "diff", others, str(path)),
             ("table", "merge", others, str(path), "--out", str(place.out / "merged.csv"))]
        )  # fmt: skip
        yield Case(kind="tables", arguments=command, files={path: content})
    for content in rng.sample(contents, 20):
        command = ("select", str(place.run), "--table", str(path), "--budget-ms", "1")
        yield Case(kind="tables", arguments=command, files={path: content})


def _other_digit(line: bytes, rng: random.Random) -> bytes:
    digits = [place for place, byte in enumerate(line) if 48 <= byte <= 57]
    place = rng.choice(digits)
    return line[:place] + bytes([48 + (line[place] - 48 + rng.randrange(1, 10)) % 10]) + line[place + 1 :]
