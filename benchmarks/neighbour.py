"""Another process that runs next to the measured one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def beside(program: str, *arguments: str) -> Iterator[None]:
    """Run Python source in a process of its own until the block ends."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], env={**os.environ, **one_thread})
    try:
        yield
    finally:
        process.kill()
        process.wait()
