"""The run, the table and the measurements that wrong inputs are made from; made once, and the same after each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from torch import Tensor

from lana.cli import main
from lana.models.teacher import load_teacher
from profilers import LatencyTable

SMALL = {
    "--pool": "linear_k1,pruned_w0.5",
    "--layers": "blocks.1,blocks.2,blocks.4",
    "--max-span": "1",
    "--distill-epochs": "0.2",
    "--distill-images": "128",
    "--score-images": "100",
    "--refine": "2",
    "--calibrate": "4",
    "--epochs": "0.1",
    "--proposals": "1",
}


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """`out` is for files of a case; `run` holds one student, tuned and delivered."""

    out: Path
    run: Path
    measured: Mapping[str, Any]

    @property
    def student(self) -> Path:
        return self.run / "students" / "0.9x"

    @property
    def table(self) -> Path:
        return self.run / "pool" / "table.csv"

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in load_teacher("digits-resnet").module.state_dict().items()}

    def digest(self) -> str:
        """The digest of all files of the run, but for its lock."""
        content = hashlib.sha256()
        for path in sorted(path for path in self.run.rglob("*") if path.is_file() and path.name != ".lock"):
            status = path.stat()
            content.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
        return content.hexdigest()


def make_workplace(folder: Path) -> Workplace:
    """A finished run of a very small pool within `folder`; one that is there already is taken."""
    out, run = folder / "out", folder / "run"
    out.mkdir(parents=True, exist_ok=True)
    options = [part for pair in SMALL.items() for part in pair]
    arguments = ["compress", "digits-resnet", "--data", "digits", "--budget", "0.9x", "--out", str(run), "--quiet"]
    result = CliRunner().invoke(main, [*arguments, *options])
    if result.exit_code not in (0, 1):
        raise RuntimeError(result.output)
    header = LatencyTable.read(run / "pool" / "table.csv").header
    network = {"name": "student 0", "ratios": [0.5, 0.51, 0.5], "reference_ms": [1.0, 1.01, 1.0]}
    measured = {
        "label": "device",
        "runtime": header.runtime,
        "settings": header.settings.to_json(),
        "device": header.device,
        "environment": {},
        "networks": [network, {**network, "name": "student 1"}],
    }
    return Workplace(out=out, run=run, measured=measured)
