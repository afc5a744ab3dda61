"""Messages and the progress of long work on stderr: a bar on a terminal, plain lines in a pipe.

Messages are records of the logger `lana` and its children. They and the progress are shown inside `reporting` only:
the public functions and the command line open it, and whoever imports the rest gets the records alone.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType

from lana.common.importing import told_of_ends

LINE_EVERY_S = 10.0
_SHOWN: ContextVar[bool | None] = ContextVar("shown", default=None)  # None outside of every `reporting`
_LOGGER = logging.getLogger("lana")
_LOGGER.addHandler(logging.NullHandler())


@contextlib.contextmanager
def reporting(*, quiet: bool = False) -> Iterator[None]:
    """While open, messages and progress are shown, unless this or an outer context is `quiet`.

    It spans a whole function or command, so that a user's code that ends the program in it is told of here.
    """
    outer, level = _SHOWN.get(), _LOGGER.level
    token = _SHOWN.set(not quiet and outer is not False)
    handler = logging.StreamHandler() if shown() and not outer else None
    if handler is not None:
        handler.addFilter(lambda record: shown())
        _LOGGER.addHandler(handler)
        _LOGGER.setLevel(logging.INFO)
    try:
        with told_of_ends():
            yield
    finally:
        if handler is not None:
            _LOGGER.removeHandler(handler)
            _LOGGER.setLevel(level)
        _SHOWN.reset(token)


def shown() -> bool:
    """True if messages and progress are shown."""
    return bool(_SHOWN.get())


def silence() -> None:
    """Show nothing more inside of the open `reporting`."""
    _SHOWN.set(False)


def counted(number: int, thing: str) -> str:
    """A number of things in words.

    >>> counted(1, "student"), counted(32, "student")
    ('1 student', '32 students')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


class Progress:
    """Counts `total` units of work; `update(done)` may be called as often as one likes.

    It shows nothing outside of `reporting`. Where the output is no terminal, it prints a plain line now and then and at
    the end.
    """

    def __init__(self, title: str, total: float = 1.0) -> None:
        self.title, self.total, self.shown = title, max(total, 1e-9), shown()
        self.start_s = self.last_s = time.monotonic()
        self.first_done: float | None = None
        self.begun_s = self.start_s
        self.bar = self.shown and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def update(self, done: float, detail: str = "") -> None:
        """Tell how much is done; work that was found done at the first call does not count in the estimate."""
        now_s = time.monotonic()
        if self.first_done is None:
            self.first_done, self.start_s = done, now_s
        if not self.shown or now_s - self.last_s < (0.2 if self.bar else LINE_EVERY_S):
            return
        self.last_s = now_s
        self._print(
            f"{self.title}: {done / self.total:4.0%}, {duration(self.seconds_left(done))} left {detail}"[:110].rstrip()
        )

    def seconds_left(self, done: float) -> float | None:
        """The estimate, in seconds; None before anything is done."""
        new = done - (self.first_done or 0)
        return None if new <= 0 else (time.monotonic() - self.start_s) / new * (self.total - done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.shown:
            self._print(f"{self.title}: done in {duration(time.monotonic() - self.begun_s)}", end=True)
        elif self.bar:
            sys.stderr.write("\n")

    def _print(self, text: str, *, end: bool = False) -> None:
        if self.bar:
            sys.stderr.write(f"\r\033[K{text}" + ("\n" if end else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def duration(seconds: float | None) -> str:
    """Seconds for people.

    >>> duration(5.2), duration(200), duration(7300), duration(None)
    ('5 s', '3 min 20 s', '2 h 01 min', '…')
    """
    if seconds is None:
        return "…"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
