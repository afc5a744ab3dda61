"""A run in any process: units of work find its teacher, data and task loaded, once a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lana.config.recipe import Recipe
from lana.config.recipe_file import moved
from lana.runs.context import RunContext, load_named, recipe_layers
from lana.runs.run import Run


class LoadedRun:
    """A run that travels to workers by its recipe and path: each process loads what they name when it first needs it.

    The process that made it has it loaded already.
    """

    def __init__(self, context: RunContext) -> None:
        self._context: RunContext | None = context
        self.recipe, self.path = context.recipe, context.run.path.resolve()
        self.folder = Path.cwd()  # that paths of the recipe are relative to

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_context": None, "recipe": self.recipe.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.recipe = Recipe(**moved(state["recipe"], self.folder, Path.cwd()))
        self.folder = Path.cwd()

    @property
    def context(self) -> RunContext:
        if self._context is None:
            teacher, task, data = load_named(self.recipe)
            self._context = RunContext(
                run=Run(self.path),
                recipe=self.recipe,
                teacher=teacher,
                data=data,
                task=task,
                scan=recipe_layers(teacher, self.recipe),
            )
        return self._context


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Each unit computes in one thread: sums of several threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
