"""Options that several commands share, and their handling. The recipe documents each option."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lana.common.console import to_json
from lana.common.importing import barred, trust_code
from lana.common.progress import silence
from lana.config.budget import check_number
from lana.config.fields import flag
from lana.config.folders import run_folder, run_of, student_folder
from lana.config.recipe import OPTIONS, Recipe
from lana.config.references import check
from lana.errors import UserError

Command = Callable[..., Any]


class NumbersType(click.ParamType):
    """Numbers separated by commas."""

    name = "numbers"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            example = "3,32,32" if self.kind is int else "0.5,0.5,0.5"
            self.fail(f"{value!r} is not a list of numbers like {example}", param, ctx)


def _click_type(annotation: Any) -> Any:
    """The parser of an option: the type without None."""
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return NumbersType(typing.get_args(annotation)[0])
    return annotation


def recipe_options(*names: str, of_run: bool = False) -> Callable[[Command], Command]:
    """Options of the recipe by name, with its help texts and defaults; `of_run`, those of a run."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            one = OPTIONS[name]
            switch = one.type is bool
            default = "the run's" if of_run else one.default
            shown = "" if switch or one.default in (None, "") else f"  [default: {default}]"
            command = click.option(
                f"{flag(name)}/--no-{flag(name)[2:]}" if switch else flag(name),
                name,
                type=_click_type(one.type),
                default=None,
                callback=_checked,
                help=one.help + shown,
            )(command)
        return command

    return add


def _checked(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The value of an option of the recipe, within its declared bounds, for commands that make no recipe too."""
    return value if value is None else OPTIONS[str(param.name)].checked(value)


def _results_only(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value:
        silence()
    return value


LOADING = (
    "weights",
    "model_args",
    "image_size",
    "mean",
    "std",
    "input_shape",
    "image_width",
    "fit",
    "fill",
    "channel_order",
)
TARGET = ("runtime", "threads", "runtime_batch", "runtime_precision", "affinity")
PLACES = ("layers", "exclude", "granularity", "max_span")
PATH = click.Path(path_type=Path)
run_argument = click.argument("run", type=PATH, callback=lambda ctx, param, path: run_folder(path))
student_argument = click.argument("student", type=PATH, callback=lambda ctx, param, path: student_folder(path))
quiet = click.option("--quiet", is_flag=True, expose_value=False, callback=_results_only, help="Print results only.")
trust = click.option(
    "--trust",
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, param, value: ctx.with_resource(trust_code()) if value else None,
    help="Run the Python files within the folder of a run or student.",
)
as_json = click.option("--json", "json_output", is_flag=True, callback=_results_only, help="Print the result as JSON.")
budget_ms = click.option("--budget-ms", type=float, help="Latency budget in milliseconds.")
budget = click.option("--budget", help="Latency budget as a share of the teacher's, e.g. 0.4x.")


def one_budget(ratio: str | None, milliseconds: float | None) -> str | None:
    if ratio is not None and milliseconds is not None:
        raise UserError("Both --budget and --budget-ms were given. Give one of them.")
    if milliseconds is not None:
        check_number("--budget-ms", milliseconds)
    return f"{milliseconds:g}ms" if milliseconds is not None else ratio


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave."""
    return {name: value for name, value in options.items() if value is not None}


def recipe_of(recipe: str | None, *, measured_here: bool = True, **options: Any) -> Recipe:
    """The recipe file with the options on top (without a file, the options), what it names being there."""
    if recipe and any((Path(recipe).parent / name).exists() for name in ("stages.json", "architecture.json")):
        click.get_current_context().with_resource(barred(run_of(Path(recipe).parent)))
    made = Recipe.from_yaml(recipe, **given(options)) if recipe else Recipe(**given(options))
    return check(made, measured_here=measured_here)


def print_json(value: Any) -> None:
    click.echo(to_json(value))


def print_result(result: Any, *, json_output: bool) -> None:
    if json_output:
        print_json(dataclasses.asdict(result))
    else:
        result.show()
