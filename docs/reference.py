"""Pages made from the program itself while the site is built: reference, recipe, results, the picture of the rooms."""

from __future__ import annotations

import html
import inspect
import re
import tomllib
from pathlib import Path

from mkdocs.structure.files import File, Files

import lana
from lana.config.fields import options_of
from lana.config.recipe import GROUPS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CLI = """# Command line

::: mkdocs-click
    :module: lana.cli
    :command: main
    :prog_name: lana
    :depth: 1
    :style: plain
    :list_subcommands: True
"""


def on_files(files: Files, config) -> Files:
    for name, content in {"cli.md": CLI, "recipe.md": recipe(), "api.md": api()}.items():
        files.append(File.generated(config, name, content=content))
    for page in sorted(RESULTS.glob("*.md")):
        files.append(File.generated(config, f"results/{page.name}", content=without_markers(page.read_text())))
    for plot in sorted((ROOT / "benchmarks" / "plots").glob("*.png")):
        files.append(File.generated(config, f"plots/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page, **_: object) -> str:
    return markdown.replace("<!-- rooms -->", rooms(markdown)) if page.file.src_uri == "architecture.md" else markdown


def without_markers(page: str) -> str:
    return re.sub(r"<!-- (table [^>]*|end) -->\n", "", page)


def recipe() -> str:
    lines = ["# Recipe", ""]
    lines += ["Every option of a run. `lana compress --recipe FILE` reads it."]
    lines += ["Each run writes its own, with the defaults filled in, as `recipe.yaml`.", ""]
    lines += ["Files, flags and `lana.Recipe(...)` name an option alike. Python reads it in its group, by its field:"]
    lines += ["`recipe.distilling.epochs` is `distill_epochs`."]
    for group, kind in GROUPS.items():
        lines += ["", f"## `recipe.{group}`", "", inspect.getdoc(kind) or "", ""]
        lines += ["| option | field | default | meaning |", "| --- | --- | --- | --- |"]
        for one in options_of(kind):
            shown = "" if one.default in (None, "") else f"`{one.default}`"
            meaning = one.help.replace("|", "\\|").replace("*", "\\*")
            lines.append(f"| `{one.name}` | `{one.field}` | {shown} | {meaning} |")
    return "\n".join(lines) + "\n"


def api() -> str:
    lines = ["# Python", "", "`import lana` offers these names, and loads each when it is first used.", ""]
    return "\n".join([*lines, *(f"::: lana.{name}\n" for name in lana.__all__)])


def rooms(page: str) -> str:
    """The layers of the import contracts as an SVG picture, one row a layer.

    Raises
    ------
    ValueError
        The page describes no room of this name.
    """
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [c["layers"] for c in contracts if c["type"] == "layers"]
    inside = next(c["layers"] for c in contracts if c.get("exhaustive"))
    below = next(found for found in layers if found is not inside)[1:]
    rows = [[name.strip() for name in layer.split("|")] for layer in [*inside, *below] if not layer.startswith("__")]
    for name in (name for row in rows for name in row):
        if f"| `{name}" not in page:
            raise ValueError(f"docs/architecture.md has no row for {name}.")
    width, height, gap = 660, 30, 8
    shapes = []
    for index, row in enumerate(rows):
        top, box = index * (height + gap), (width - gap * (len(row) - 1)) / len(row)
        for place, name in enumerate(row):
            left = place * (box + gap)
            fill = "#e3ecf7" if index < len(inside) else "#e9f3e6"
            shapes.append(f'<rect x="{left:.0f}" y="{top}" width="{box:.0f}" height="{height}" rx="4" fill="{fill}"/>')
            middle = f'x="{left + box / 2:.0f}" y="{top + height / 2 + 5:.0f}" text-anchor="middle"'
            shapes.append(f'<text {middle} font-family="monospace" font-size="14">{html.escape(name)}</text>')
    size = f"0 0 {width} {len(rows) * (height + gap)}"
    return f'<svg viewBox="{size}" width="{width}" role="img" aria-label="Rooms">{"".join(shapes)}</svg>'
