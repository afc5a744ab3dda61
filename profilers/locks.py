"""Locks of files, by what the system offers: `flock`, or a locked byte on Windows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REPLACES_LOCKED = fcntl is not None  # whether a file may be replaced while it is open and locked


@contextlib.contextmanager
def open_locked(path: Path) -> Iterator[BinaryIO]:
    """The file itself is the lock; taken again where it was replaced by another in the meantime."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        with os.fdopen(handle, "r+b") as file, lock(file, exclusive=True):
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                yield file
                return


@contextlib.contextmanager
def lock(file: BinaryIO, *, exclusive: bool) -> Iterator[None]:
    """Held until the end of the block, or of the process."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        try:
            yield
        finally:
            file.flush()
            fcntl.flock(file, fcntl.LOCK_UN)
        return
    import msvcrt  # pragma: no cover

    place = 2**40  # far beyond the content: a locked byte of it could not be read by others
    file.seek(place)
    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
    file.seek(0)
    try:
        yield
    finally:
        file.flush()
        file.seek(place)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Make a file and hold its lock until the end of the block, or of the process."""
    with path.open("wb") as file, lock(file, exclusive=True):
        yield


def is_held(path: Path) -> bool:
    """True if some process holds the lock of a file; where this cannot be seen, yes."""
    if fcntl is None:
        return True
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
