"""RunContext: a run with its recipe, and the teacher, data, task and layers that the recipe names."""

from __future__ import annotations

from dataclasses import dataclass

from lana.config.recipe import Recipe
from lana.data.loading import load_data
from lana.data.split import Data
from lana.errors import UserError
from lana.evaluation.checks import check_device, check_labels
from lana.evaluation.task import Task, load_task
from lana.models.student import own_module
from lana.models.teacher import Teacher, teacher_of
from lana.networks.layers import LayerScan, find_layers
from lana.operations.presets import check_own, pool_names
from lana.runs.run import Run
from profilers import RuntimeSettings, create_runtime


@dataclass(frozen=True, kw_only=True, eq=False)
class RunContext:
    """A run, its recipe, and what the recipe names, loaded."""

    run: Run
    recipe: Recipe
    teacher: Teacher
    data: Data
    task: Task
    scan: LayerScan

    @property
    def runtime_settings(self) -> RuntimeSettings:
        return self.recipe.runtime_settings


def prepare(run: Run, recipe: Recipe) -> RunContext:
    """Load what the recipe names and find the layers; nothing is written to the run before all of it is good."""
    check_device(recipe.device)
    pool_names(recipe.pool)
    create_runtime(recipe.runtime, recipe.runtime_settings)
    teacher = teacher_of(recipe)
    task = load_task(recipe.task)
    data = load_data(recipe.data, teacher, seed=recipe.seed)
    check_labels(teacher, data, task)
    scan = _checked_layers(teacher, recipe)
    run.begin(recipe)
    return RunContext(run=run, recipe=recipe, teacher=teacher, data=data, task=task, scan=scan)


def load_layers(recipe: Recipe) -> tuple[Teacher, LayerScan]:
    """The teacher and its layers alone, its weights as they come: latency does not depend on them.

    Raises:
        UserError: as `prepare`, for the model, its layers and the pool.
    """
    pool_names(recipe.pool)
    teacher = teacher_of(recipe, pretrained=False)
    scan = _checked_layers(teacher, recipe)
    return teacher, scan


def _checked_layers(teacher: Teacher, recipe: Recipe) -> LayerScan:
    """`layers_of`, one at least, at which the user's own operations can be built."""
    scan = layers_of(teacher, recipe)
    if not scan.layers:
        left_out = f" and not --exclude {recipe.exclude!r}" if recipe.exclude else ""
        raise UserError(
            f"{recipe.model} has no layer that can be replaced and matches --layers {recipe.layers!r}{left_out}. "
            f"See what there is, and why not, with: lana layers {recipe.model}"
        )
    check_own(recipe.pool, [(layer, own_module(teacher.module, layer)) for layer in (*scan.layers, *scan.spans)])
    return scan


def layers_of(teacher: Teacher, recipe: Recipe) -> LayerScan:
    """The layers and spans of a teacher that a recipe asks for."""
    return find_layers(
        teacher.module,
        (teacher.example(),),
        include=recipe.layers.split(","),
        exclude=recipe.exclude.split(","),
        granularity=recipe.granularity,
        max_span=recipe.max_span,
    )
