"""No reports to others: libraries that send figures of their use are told not to, before they are loaded."""

from __future__ import annotations

import os

SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime from 1.32 on: a device number and events, kept under the home folder
    "HF_HUB_DISABLE_TELEMETRY": "1",  # what is downloaded tells the versions of all libraries otherwise
}


def switch_off() -> None:
    """Set the variables that are not set; whoever wants to report sets `ORT_DISABLE_TELEMETRY=0`, say."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
