"""The device and the conditions of a measurement, read from the system. An entry that cannot be read stays empty."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path


def processor_flags() -> frozenset[str]:
    """The instruction sets of the processor as Linux names them (avx512_vnni, asimddp …); empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    listed = (
        value for key, _, value in (line.partition(":") for line in lines) if key.strip() in ("flags", "Features")
    )
    return frozenset(next(listed, "").split())


def processor() -> str:
    """The processor as the system names it, with the number of its logical processors.

    The model numbers are part of it, since some machines only call themselves "AMD EPYC".
    """
    name, numbers = platform.processor() or platform.machine(), ""
    try:
        # The board comes last; for entries that every processor has, the first one's counts.
        lines = reversed(Path("/proc/cpuinfo").read_text().splitlines())
        cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        name = cpu.get("model name") or cpu.get("Model") or name
        if "cpu family" in cpu:
            numbers = f" (family {cpu['cpu family']} model {cpu.get('model', '?')} stepping {cpu.get('stepping', '?')})"
        elif "CPU part" in cpu:
            numbers = f" (implementer {cpu.get('CPU implementer', '?')} part {cpu['CPU part']})"
    except OSError:
        if sys.platform == "darwin":
            name = _output("sysctl", "-n", "machdep.cpu.brand_string") or name
    return f"{name}{numbers}, {os.cpu_count()} logical processors"


def gpu() -> str:
    """The name of the NVIDIA GPU that a program finds first, or nothing."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    return _output("nvidia-smi", "--id", first, "--query-gpu=name", "--format=csv,noheader")


def environment() -> dict[str, str]:
    """System, Python, governor, clock and load; what cannot be read is left out."""
    cpu = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    entries = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "governor": _text(cpu / "scaling_governor"),
        "max_khz": _text(cpu / "scaling_max_freq"),
        "boost": _text(Path("/sys/devices/system/cpu/cpufreq/boost")),
        "mhz": _mhz(),
        "cpu_quota": _text(Path("/sys/fs/cgroup/cpu.max")),
        "load": load(),
    }
    return {name: value for name, value in entries.items() if value}


def load() -> str:
    """Processes that wanted to run, averaged over the last minute."""
    try:
        return f"{os.getloadavg()[0]:.2f}"
    except (OSError, AttributeError):
        return ""


def _mhz() -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("cpu MHz"):
            return line.partition(":")[2].strip()
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
