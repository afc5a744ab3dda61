"""All options of a run in one validated record: a group a stage, and flat names for users."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lana.config.fields import Option, check_options, option_name, options_of
from lana.config.options import (
    ComputeOptions,
    DistillingOptions,
    FineTuning,
    ProfilingOptions,
    ScoringOptions,
    SelectingOptions,
    TeacherOptions,
)
from lana.config.recipe_file import moved, options_text, read_options


@dataclass(frozen=True, init=False)
class Recipe:
    """The model to compress, its device and budget, and the work to spend on it.

    Options are given flat, under the names of the command line and of recipe files, and held by group.

    Raises:
        UserError: an option does not exist, or its value is of another type or out of its range; the message has the
        expected one.

    >>> recipe = Recipe(model="digits-resnet", budget="0.4x", distill_epochs=1)
    >>> recipe.teacher.model, recipe.selecting.budget_ratio, recipe.distilling.epochs
    ('digits-resnet', 0.4, 1.0)
    >>> Recipe(budget="4.2ms").selecting.budget_ms
    4.2
    """

    teacher: TeacherOptions
    profiling: ProfilingOptions
    distilling: DistillingOptions
    scoring: ScoringOptions
    selecting: SelectingOptions
    finetuning: FineTuning
    compute: ComputeOptions

    __signature__: ClassVar[inspect.Signature]  # the options by their flat names, for help() and editors

    def __init__(self, **options: Any) -> None:
        check_options(options, OPTIONS, "A recipe")
        options = {name: OPTIONS[name].checked(value) for name, value in options.items()}
        for group, kind in GROUPS.items():
            names = {spec.name: option_name(spec) for spec in dataclasses.fields(kind)}
            values = {field: options[name] for field, name in names.items() if name in options}
            object.__setattr__(self, group, kind(**values))

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.distilling.seed

    @property
    def options(self) -> dict[str, Any]:
        """All options by their flat names."""
        held = {type(group): group for group in vars(self).values()}
        return {name: getattr(held[declared.group], declared.field) for name, declared in OPTIONS.items()}

    def parts(self, *stages: str) -> dict[str, Any]:
        """The options that decide the named stages; those `added` later only where they differ from their default."""
        values = self.options
        return {
            name: values[name]
            for name, declared in OPTIONS.items()
            if declared.group.stage in stages and not (declared.added and values[name] == declared.default)
        }

    def replace(self, **changes: Any) -> Recipe:
        """The same recipe with some options changed, by their flat names."""
        return Recipe(**{**self.options, **changes})

    def seen_from(self, folder: Path | str) -> Recipe:
        """The same recipe for a reader in another folder than the working directory: what is relative is so to that.

        >>> Recipe(model="net.py:mine", pool="default,own.py").seen_from("runs").profiling.pool
        'default,../own.py'
        """
        return Recipe(**moved(self.options, Path.cwd(), Path(folder)))

    def to_yaml(self, folder: Path | str = ".") -> str:
        """The whole recipe for a file in `folder`, the defaults filled in, each option under its help text."""
        return options_text(self.seen_from(folder).options, {name: one.help for name, one in OPTIONS.items()})

    @classmethod
    def from_yaml(cls, path: Path | str, **changes: Any) -> Recipe:
        """Read a recipe, the paths in which are relative to its folder; `changes` win over it.

        Raises:
            UserError: the file is missing, not YAML, names an option that does not exist or holds a value amiss.
        """
        read = cls(**read_options(path, OPTIONS))
        return cls(**{**moved(read.options, Path(path).parent, Path.cwd()), **changes})


GROUPS: dict[str, type[Any]] = {
    name: hint for name, hint in typing.get_type_hints(Recipe).items() if not name.startswith("_")
}
OPTIONS: dict[str, Option] = {one.name: one for kind in GROUPS.values() for one in options_of(kind)}
FINETUNING = tuple(one.name for one in options_of(FineTuning))
SELECTING = tuple(one.name for one in options_of(SelectingOptions) if one.name != "budget")

Recipe.__signature__ = inspect.Signature(
    [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in OPTIONS.values()
    ]
)


def fingerprint(value: Any) -> str:
    """A short hash of plain data: equal data, equal hash."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
