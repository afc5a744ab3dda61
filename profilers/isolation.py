"""Start workers in fresh processes with fixed threads, and read what they say, whatever becomes of them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .computation import Computation
from .errors import MeasurementFailed
from .runtime import RuntimeSettings
from .timing import Protocol


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a worker said: seconds a call and round by index, errors by index."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


def run_worker(
    computations: Sequence[Computation],
    *,
    runtime: str,
    settings: RuntimeSettings,
    protocol: Protocol,
    timeout_s: float = 300.0,
) -> Outcome:
    """Measure computations side by side in a fresh process.

    A crash or a hang while one is prepared is that one's error; the others are measured in another process.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, computation in enumerate(computations):
            paths.append(Path(folder) / f"{index}.json")
            computation.save(paths[-1])
        outcome, left = Outcome(), dict(enumerate(paths))
        while left:
            job = {
                "computations": [str(path) for path in left.values()],
                "runtime": runtime,
                "settings": asdict(settings),
                "protocol": asdict(protocol),
            }
            messages, died = _start(job, Path(folder) / "job.json", settings, timeout_s)
            indices, preparing = list(left), None
            for message in messages:
                if "preparing" in message:
                    preparing = message["preparing"]
                elif "error" in message:
                    outcome.errors[indices[message["index"]]] = message["error"]
                else:
                    outcome.seconds[indices[message["index"]]] = message["seconds"]
            if not died:
                break
            if preparing is None:
                raise MeasurementFailed(f"The measuring process ended before it was done: {died}")
            outcome.errors[indices[preparing]] = died
            left = {index: path for index, path in left.items() if index not in outcome.errors}
        return outcome


def _start(
    job: dict[str, Any], path: Path, settings: RuntimeSettings, timeout_s: float
) -> tuple[list[dict[str, Any]], str]:
    """The worker's messages, and how it died if it did."""
    path.write_text(json.dumps(job))
    threads = str(settings.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.worker", str(path)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            check=False,
        )
        output, died = done.stdout, "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr[-300:]}"
    except subprocess.TimeoutExpired as expired:
        raw = expired.stdout or b""
        output, died = raw.decode() if isinstance(raw, bytes) else raw, f"killed after {timeout_s:.0f} s"
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")], died
