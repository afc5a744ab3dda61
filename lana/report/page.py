"""`report.html`: one file that opens without a network."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from lana.report.data import gather
from lana.run import write_text

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(run: Path | str, path: Path | str | None = None) -> Path:
    """Write the report of a run; by default RUN/report.html.

    Raises:
        UserError: the run is not finished as far as the scores.
    """
    return write_text(Path(path) if path else Path(run) / "report.html", render(gather(run)))


def render(data: dict[str, Any]) -> str:
    """The page with its data inside."""
    # "</" would end the script that the data stands in; NaN is no JSON for a browser.
    content = json.dumps(_without_nan(data), default=str).replace("</", "<\\/")
    page = TEMPLATE.read_text()
    return page.replace("@@TITLE@@", html.escape(f"{data['model']} · lana")).replace("@@DATA@@", content)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
