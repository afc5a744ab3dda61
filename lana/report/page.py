"""`report.html`: one file that opens without a network."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from lana.common.console import to_json
from lana.common.files import write_text
from lana.report.data import gather

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(run: Path | str, path: Path | str | None = None) -> Path:
    """Write the report of a run; by default RUN/report.html.

    Raises:
        UserError: the run is not finished as far as the scores.
    """
    return write_text(Path(path) if path else Path(run) / "report.html", render(gather(run)))


def render(data: dict[str, Any]) -> str:
    """The page with its data inside."""
    content = to_json(data, indent=None).replace("<", "\\u003c")  # "</script" would end the element that holds the data
    page = TEMPLATE.read_text()
    return page.replace("@@TITLE@@", html.escape(f"{data['model']} · lana")).replace("@@DATA@@", content)
