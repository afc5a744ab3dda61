"""Files written whole or not at all, and clear messages where one is damaged or a disk is full or refuses."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import tempfile
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lana.errors import UserError

WRITING_PREFIX = ".writing-"
Record = TypeVar("Record")
NUMBERS = "row"  # the column of a record's number, as "3 of 12"
REQUIRED = object()  # no default: the file must exist


@contextlib.contextmanager
def explain_disk(path: Path | None = None) -> Iterator[None]:
    """Turn a full disk, or a file that cannot be read or written, into a message. `path` is the folder of the work."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output has closed it: click ends in silence
        raise
    except OSError as error:
        place = error.filename2 or error.filename  # the second of a renaming: the first is our temporary file
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk that holds {place or path or 'the files'} is full. "
                "Free some space and repeat the same command: finished stages are kept."
            ) from error
        raise UserError(
            f"Cannot read or write {place}: {error.strerror}. Give another path, or remove the obstacle."
            if place
            else f"Reading or writing failed: {error}"  # a download, for example
        ) from error


def write_atomically(path: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` write a temporary file, then rename it to `path`: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=WRITING_PREFIX, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    return write_atomically(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path, default: Any = REQUIRED) -> Any:
    """The content of a JSON file, or `default` where one is given and the file does not exist.

    Raises:
        UserError: the file is damaged, or it is missing and there is no default.
    """
    if default is not REQUIRED and not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Repeat the command that writes it.") from error
    except ValueError as error:  # not JSON, or not text
        raise UserError(
            f"{path} is damaged: it is not JSON ({error}). Delete it and repeat the command that writes it."
        ) from error


@contextlib.contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn what a reader stumbles over in a damaged file into a message that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Repeat the command that writes it.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:300]}). "
            "Delete it and repeat the command that writes it, or begin another run."
        ) from error


def check_types(row: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Refuse a record of a file in which a value is of another type than its field.

    Raises:
        ValueError: names the field and the value.
    """
    for name, value in row.items():
        if name in hints and not _fits(value, hints[name]):
            expected = {int: "a number", float: "a number"}.get(hints[name], str(hints[name]).split(".")[-1])
            raise ValueError(f"{name} is {str(value)[:40]!r}, expected {expected}")


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if hint in (int, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if typing.get_origin(hint) is Mapping:
        return isinstance(value, Mapping) and all(_fits(one, typing.get_args(hint)[1]) for one in value.values())
    return not isinstance(hint, type) or hint not in (bool, str, type(None)) or isinstance(value, hint)


def read_record(path: Path, record: type[Record], *, positive: Collection[str] = ()) -> Record:
    """The dataclass that a JSON file holds; the figures `positive` are finite and above zero.

    Raises:
        UserError: the file is missing or damaged.
    """
    content = read_json(path)
    with explain_damage(path):
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}, expected names with values")
        check_types(content, typing.get_type_hints(record))
        for name in positive:
            if content.get(name) is not None and not 0 < content[name] < math.inf:
                raise ValueError(f"{name} is {content[name]}, expected a number above 0")
        return record(**content)


def read_records(path: Path, record: type, missing: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a CSV file that holds one dataclass `record` a row, by name and checked; none where there is no file.

    A column of text is read as text: a layer may be called "0" or "null". In the columns `missing` nothing is nan.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return []
    hints = typing.get_type_hints(record)
    text = {name: str for name, hint in hints.items() if hint not in (int, float, bool)}
    with explain_damage(path):
        empty = {name: ["", "nan"] for name in missing}
        columns, rows = _csv_rows(path, na_values=empty, dtype={**text, NUMBERS: str})
        if not rows and not set(columns) & set(hints):
            raise ValueError(f"its columns are {', '.join(columns)[:80]}")
        for row in rows:
            row.pop(NUMBERS, None)
            check_types(row, hints)
    return rows


def missing_rows(path: Path) -> str:
    """The rows that a file of `write_records` lacks, in words; empty where it is whole, or of before rows had numbers.

    Raises:
        UserError: the file is damaged.
    """
    with explain_damage(path):
        _, rows = _csv_rows(path, dtype={NUMBERS: str})
        if rows and NUMBERS not in rows[0]:
            return ""
        places = [row[NUMBERS].split(" of ") for row in rows]
        numbers, total = {int(number) for number, _ in places}, max((int(total) for _, total in places), default=0)
        lost = [str(number) for number in range(1, total + 1) if number not in numbers]
    if not rows:
        return "all rows"
    return f"{len(lost)} of its {total} rows (no. {', '.join(lost[:10])}{' …' if lost[10:] else ''})" if lost else ""


def _csv_rows(path: Path, **how: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and the rows."""
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False, **how)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes what is too much for an index
        raise ValueError("its rows are longer than its header")
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return [str(name) for name in frame.columns], rows


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A CSV file of these rows, each with its number, so that a lost one is noticed."""
    import pandas as pd

    listed = list(rows)
    numbered = [{NUMBERS: f"{number} of {len(listed)}", **row} for number, row in enumerate(listed, 1)]
    frame = pd.DataFrame(numbered)
    return write_atomically(path, lambda temporary: frame.to_csv(temporary, index=False, na_rep="nan"))


def save_torch(path: Path, value: Any) -> Path:
    """Write what `torch.load(path, weights_only=True)` reads back."""
    import torch

    memory = io.BytesIO()  # torch raises no OSError where a disk is full
    torch.save(value, memory)
    return write_atomically(path, lambda temporary: temporary.write_bytes(memory.getbuffer()))
