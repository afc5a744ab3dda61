"""Files written whole or not at all, and clear messages where a disk is full or refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lana.errors import UserError

WRITING_PREFIX = ".writing-"


@contextlib.contextmanager
def explain_disk(path: Path | None = None) -> Iterator[None]:
    """Turn a full disk, or a place that cannot be read or written, into a message. `path` is where the work goes on."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has seen enough: click ends in silence
        raise
    except OSError as error:
        place = error.filename2 or error.filename  # of a renaming the second, the first is our own beside it
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk that holds {place or path or 'the files'} is full. "
                "Free some space and repeat the same command: what is finished is kept."
            ) from error
        raise UserError(
            f"Cannot read or write {place}: {error.strerror}. Give another path, or mend what stands in the way."
            if place
            else f"Reading or writing failed: {error}"  # of a download, say
        ) from error


def write(path: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` write a file beside `path`, then rename it into place: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=WRITING_PREFIX, suffix=path.suffix)
    os.close(handle)
    beside = Path(name)
    try:
        fill(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.chmod(0o644)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    return write(path, lambda beside: beside.write_text(text))


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=1, default=str) + "\n")
