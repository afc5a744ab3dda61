"""Reference pages made from the program itself while the site is built: commands, recipe, Python."""

import dataclasses
import importlib
import inspect
import textwrap

import click
from mkdocs.structure.files import File

import lana
from lana.cli import main
from lana.config.fields import flag
from lana.config.recipe import Recipe


def on_files(files, config):
    pages = {"cli.md": cli(), "recipe.md": recipe(), "api.md": api()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def cli() -> str:
    return "\n".join(["# Command line", "", *_command(main, None, "lana")])


def _command(command: click.Command, parent: click.Context | None, name: str) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    lines = [f"## {context.command_path}", "", "```text", command.get_help(context), "```", ""]
    if isinstance(command, click.Group):
        for child in sorted(command.commands):
            lines += _command(command.commands[child], context, child)
    return lines


def recipe() -> str:
    lines = [
        "# Recipe",
        "",
        "Every option of a run. `lana compress --recipe FILE` reads it, and each run writes its own,",
    ]
    lines += [
        "with the defaults filled in, as `recipe.yaml`.",
        "",
        "| option | default | meaning |",
        "| --- | --- | --- |",
    ]
    for spec in dataclasses.fields(Recipe):
        default = "" if spec.default in (None, "") else f"`{spec.default}`"
        meaning = spec.metadata["help"].replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| `{flag(spec.name)[2:].replace('-', '_')}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def api() -> str:
    lines = ["# Python", "", "What `import lana` offers; everything is loaded when it is first used.", ""]
    for name in lana.__all__:
        value = getattr(importlib.import_module(f"lana.{lana._HOME[name]}"), name)
        signature = "" if inspect.isclass(value) and issubclass(value, Exception) else f"{inspect.signature(value)}"
        shown = f"{name}{signature}"
        if len(shown) > 100:
            shown = shown.replace("(", "(\n    ", 1).replace(", ", ",\n    ")
        lines += [f"## lana.{name}", "", "```python", shown, "```", "", "```text"]
        lines += [textwrap.dedent(inspect.getdoc(value) or ""), "```", ""]
    return "\n".join(lines)
