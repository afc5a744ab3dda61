"""Names of students in a run, and the options that each was made with."""

from __future__ import annotations

from pathlib import Path

from lana.config.recipe import Recipe
from lana.runs.run import Run


def changed_options(folder: Path, recipe: Recipe) -> list[str]:
    """The options that a student was made with otherwise."""
    kept = student_recipe(folder)
    names = kept.parts("student").keys() | recipe.parts("student").keys()
    values = {name: (kept.options[name], recipe.options[name]) for name in sorted(names)}
    return [f"{name}: {then!r} there, {now!r} now" for name, (then, now) in values.items() if then != now]


def student_recipe(folder: Path) -> Recipe:
    return Recipe.from_yaml(folder / "recipe.yaml")


def free_name(run: Run, wanted: str, recipe: Recipe) -> str:
    """`wanted`, with a number added if such a student exists; an unfinished student is resumed under its name."""
    number, name = 1, wanted
    while run.student(name).exists() and not _cut_off(run, name, recipe):
        number += 1
        name = f"{wanted}-{number}"
    return name


def _cut_off(run: Run, name: str, recipe: Recipe) -> bool:
    folder = run.student(name)
    begun = (folder / "recipe.yaml").is_file()
    return not run.delivered(name) and not (begun and changed_options(folder, recipe))
