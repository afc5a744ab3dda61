"""Another process beside what is measured."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def beside(program: str, *arguments: str) -> Iterator[None]:
    """Run Python source in a process of its own until the block ends."""
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()
