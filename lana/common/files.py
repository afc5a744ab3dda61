"""Files written whole or not at all, and clear messages where one is damaged or a disk is full or refuses."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lana.errors import UserError

WRITING_PREFIX = ".writing-"
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


def check_types(row: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Refuse a row of a file in which a figure is none.

    Raises:
        ValueError: names the column and the value.
    """
    for name, value in row.items():
        if types.get(name) in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{name} is {str(value)[:40]!r}, expected a number")


def save_torch(path: Path, value: Any) -> Path:
    """Write what `torch.load(path, weights_only=True)` reads back."""
    import torch

    memory = io.BytesIO()  # torch raises no OSError where a disk is full
    torch.save(value, memory)
    return write_atomically(path, lambda temporary: temporary.write_bytes(memory.getbuffer()))
