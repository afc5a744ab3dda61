"""Archives of computations, run where a device is: on this machine, over SSH, or on a node of a Ray cluster.

A device measures one thing at a time: a lock of its place keeps other measurements of ours waiting.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lana.engines.units import Report, Unit
from lana.errors import UserError
from profilers.user_folder import home

POLL_S = 1.0
SSH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
UNREACHABLE = 255  # of ssh and scp
_RUN = """\
import runpy, sys
sys.path.insert(0, ".")
from profilers.worker import end_with_the_starter
end_with_the_starter()
sys.argv = ["run.py"]
runpy.run_path("run.py", run_name="__main__")
"""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive of `profilers.bundle` with the place of its device, and the file that running it writes."""

    content: bytes
    at: str
    python: str
    result: str


def archive_unit(path: Path, *, device: str, at: str, python: str, result: str) -> Unit:
    """A unit that runs an archive: its value is the text of the file `result`."""
    content = path.read_bytes()
    return Unit(
        name=f"{device}-{Path(result).stem}-{hashlib.sha256(content).hexdigest()[:8]}",
        content=Archive(content=content, at=at, python=python, result=result),
        device=device if at.startswith("ray") else "",
    )


def run_archive(archive: Archive, report: Report) -> str:
    """Run an archive at its device and return the text of what it wrote.

    Raises:
        UserError: the device is offline, or the archive fails there.
    """
    host = archive.at.removeprefix("ssh:") if archive.at.startswith("ssh:") else ""
    with tempfile.TemporaryDirectory() as folder, _alone(host or "here", report):
        place = Path(folder) / "archive.zip"
        place.write_bytes(archive.content)
        if host:
            return _over_ssh(archive, host, place, report)
        with zipfile.ZipFile(place) as packed:
            packed.extractall(folder)
        _run([sys.executable, "-c", _RUN], report, where="here", folder=folder)
        return (Path(folder) / archive.result).read_text()


def _over_ssh(archive: Archive, host: str, place: Path, report: Report) -> str:
    """Run an archive in a folder of the host that a repeated call finds again; it is removed at the end."""
    there = f"lana-{hashlib.sha256(archive.content).hexdigest()[:16]}"
    _run(["ssh", *SSH, host, f"mkdir -p {there}"], report, where=host)
    _run(["scp", *SSH, "-q", str(place), f"{host}:{there}/archive.zip"], report, where=host)
    python = shlex.quote(archive.python)
    unpacked = f"cd {there} && {python} -m zipfile -e archive.zip . && {python} run.py"
    _run(["ssh", *SSH, host, unpacked], report, where=host)
    result = place.with_name(archive.result)
    _run(["scp", *SSH, "-q", f"{host}:{there}/{archive.result}", str(result)], report, where=host)
    _run(["ssh", *SSH, host, f"rm -rf {there}"], report, where=host)
    return result.read_text()


def _run(command: Sequence[str], report: Report, *, where: str, folder: str | None = None) -> None:
    """Run a command to its end, or end it with this process.

    Raises:
        UserError: it fails.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=output)
        except OSError as error:
            raise UserError(f"{command[0]} cannot be started: {error.strerror}. Install it.") from error
        try:
            while process.poll() is None:
                report(0.5)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace").strip()[-300:]
    if process.returncode == UNREACHABLE and command[0] in ("ssh", "scp"):
        raise UserError(f"{where} is offline ({said or 'no answer'}). The same command does it later.")
    if process.returncode:
        raise UserError(f"The archive failed at {where}: {said or f'status {process.returncode}'}")


@contextlib.contextmanager
def _alone(place: str, report: Report) -> Iterator[None]:
    """Hold the lock of a place where something is measured."""
    folder = home() / "devices"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.lock")
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=POLL_S)
            break
        report(0.0)
    try:
        yield
    finally:
        lock.release()
