"""A fleet in YAML: devices that students of one run are made for. Paths are relative to the file.

run: runs/mine
budget: 0.5x
devices:
  - name: desk
  - name: board
    at: ssh:pi@board.local
    threads: 4
    budget: 30ms
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lana.config.budget import parse_budget
from lana.config.fields import Options, check_options, option, options_of
from lana.config.folders import run_folder
from lana.errors import UserError

if TYPE_CHECKING:
    from profilers.runtime import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class FleetDevice(Options):
    """A device of a fleet: its runtime and settings, its budget, and where it is."""

    name: str = option("", "Name of the device: letters, digits, dots and dashes.")
    at: str = option("here", "here, ssh:HOST, ray or ray://HOST:PORT (the node with the resource device:NAME).")
    runtime: str = option("onnxruntime-cpu", "Runtime of the latencies.")
    threads: int = option(1, "Threads of the runtime.", least=1, most=4096)
    runtime_precision: str = option("fp32", "Precision of the runtime.", choices=("fp32", "fp16", "bf16"))
    affinity: tuple[int, ...] | None = option(None, "Logical processors to measure on.", least=0, most=65_535)
    budget: str = option("", "Latency budget: a share of the teacher's there ('0.4x') or milliseconds ('4.2ms').")
    python: str = option("python3", "Python of an ssh device, with numpy and the runtime's package.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,60}", self.name):
            raise UserError(f"A device is called {self.name[:60]!r}. Give a name of letters, digits, dots and dashes.")
        if not re.fullmatch(r"here|ray|ray://\S+|ssh:[^\s-]\S*", self.at):
            raise UserError(f"The device {self.name} is at {self.at[:60]!r}: expected here, ssh:HOST or ray.")
        parse_budget(self.budget)

    def settings(self, batch: int) -> RuntimeSettings:
        from profilers.runtime import RuntimeSettings

        return RuntimeSettings(
            threads=self.threads, batch=batch, precision=self.runtime_precision, affinity=self.affinity
        )


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices, and the run whose pool their students come from."""

    run: Path
    devices: tuple[FleetDevice, ...]


def read_fleet(path: Path | str) -> Fleet:
    """The fleet of a YAML file.

    Raises:
        UserError: the file is missing or not one; two devices of one name, or a device without a budget.
    """
    place = Path(path)
    try:
        content = yaml.safe_load(place.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"Cannot read the fleet {path}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"The fleet {path} is not valid YAML: {str(error)[:500]}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("devices"), list) or "run" not in content:
        raise UserError(f"The fleet {path} needs 'run: RUN' and 'devices:' with a list of devices.")
    check_options(content, ("run", "budget", "devices"), f"The fleet {path}")
    devices = tuple(_device(entry, content.get("budget", "")) for entry in content["devices"])
    names = [device.name for device in devices]
    if twice := [name for name in names if names.count(name) > 1] or not names:
        raise UserError(f"The fleet {path} has no device, or several called {twice}. Give each a name of its own.")
    return Fleet(run=run_folder(place.parent / str(content["run"])), devices=devices)


def _device(entry: Any, budget: str) -> FleetDevice:
    if not isinstance(entry, Mapping):
        raise UserError(f"A device is {str(entry)[:60]!r}: expected lines like 'name: board'.")
    known = [one.name for one in options_of(FleetDevice)]
    check_options(entry, known, f"The device {entry.get('name', '')}")
    return FleetDevice(**{"budget": budget, **entry})
