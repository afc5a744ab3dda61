"""The user's data folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """The user's data folder: the environment variable LANA_HOME, or the platform's own place."""
    if os.environ.get("LANA_HOME"):
        return Path(os.environ["LANA_HOME"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "lana"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "lana"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "lana"
