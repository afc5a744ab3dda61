"""A fresh process that measures: `python -m profilers.worker JOB.json`, results as JSON lines on standard output.

It loads numpy and the runtime, nothing else, so that no other library's threads are in the way.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from .computation import Computation
from .measurement import half_width
from .runtime import RuntimeSettings, create_runtime
from .timing import Protocol, sample


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def work(job: dict[str, Any]) -> None:
    """Prepare every computation (one that fails is told and left out), then sample them side by side."""
    settings = RuntimeSettings(**job["settings"])
    if settings.affinity:
        os.sched_setaffinity(0, settings.affinity)
    runtime = create_runtime(job["runtime"], settings)
    protocol = Protocol(**job["protocol"])
    sessions = {}
    for index, path in enumerate(job["computations"]):
        say(preparing=index)
        try:
            session = runtime.prepare(Computation.load(Path(path)))
            session.run()
            sessions[index] = session
        except Exception as error:  # a computation that cannot be built is a row with its error
            say(index=index, error=f"{type(error).__name__}: {str(error)[:300]}")
    say(preparing=None)

    def narrow(samples: list[list[float]]) -> bool:
        return all(half_width(values) < protocol.narrow for values in samples)

    samples = sample([session.run for session in sessions.values()], protocol, enough=narrow)
    for index, values in zip(sessions, samples, strict=True):
        say(index=index, seconds=values)


if __name__ == "__main__":
    work(json.loads(Path(sys.argv[1]).read_text()))
