"""RunContext: a run with its recipe, and the teacher, data, task and layers that the recipe names."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from lana.common.suggestions import near
from lana.config.options import ProfilingOptions
from lana.config.recipe import Recipe
from lana.data.split import Data
from lana.errors import UserError
from lana.evaluation.checks import check_device, check_labels
from lana.evaluation.detection import Detection, check_options
from lana.evaluation.examples import load_examples, make_task
from lana.evaluation.network_checks import check_batches, check_gradients, check_layers, check_logits
from lana.evaluation.task import Task
from lana.models.student import own_module
from lana.models.teacher import Teacher, teacher_of
from lana.networks.layers import Layer, LayerScan, find_layers
from lana.networks.predictors import last_predictors
from lana.operations.presets import check_own, pool_names
from lana.operations.pruning import why_not_pruned
from lana.quantization.scheme import Scheme, scheme_for
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
        return self.recipe.profiling.runtime_settings

    @property
    def scheme(self) -> Scheme | None:
        """The int8 scheme of this machine and runtime; None where nothing is int8."""
        return scheme_for(self.recipe.profiling.runtime, self.recipe.profiling.precisions)


def prepare(run: Run, recipe: Recipe) -> RunContext:
    """Load what the recipe names and find the layers; nothing is written to the run before all of it is good."""
    check_device(recipe.compute.device)
    pool_names(recipe.profiling.pool)
    create_runtime(recipe.profiling.runtime, recipe.profiling.runtime_settings)
    scheme_for(recipe.profiling.runtime, recipe.profiling.precisions)
    teacher, task, data = load_named(recipe)
    check_batches(teacher, data)
    if isinstance(task, Detection):
        check_options(task, recipe.finetuning, recipe.selecting.score_by)
    check_labels(teacher, data, task)
    check_logits(teacher, data, task)
    scan = _checked_layers(teacher, recipe)
    layers = [layer.members[0] for layer in scan.layers]
    if recipe.finetuning.epochs:
        check_gradients(teacher, data, task, recipe.finetuning, layers)
    elif recipe.distilling.epochs:
        check_layers(teacher, data, layers)
    run.begin(recipe)
    return RunContext(run=run, recipe=recipe, teacher=teacher, data=data, task=task, scan=scan)


def load_named(recipe: Recipe) -> tuple[Teacher, Task, Data]:
    """The teacher, task and data that a recipe names."""
    teacher = teacher_of(recipe.teacher)
    task = make_task(recipe.teacher.task, teacher, recipe.teacher.decode)
    return teacher, *load_examples(recipe.teacher.data, teacher, task, seed=recipe.seed, device=recipe.compute.device)


def load_layers(recipe: Recipe) -> tuple[Teacher, LayerScan]:
    """The teacher and its layers alone, its weights as they come: latency does not depend on them.

    Raises:
        UserError: as `prepare`, for the model, its layers and the pool.
    """
    pool_names(recipe.profiling.pool)
    teacher = teacher_of(recipe.teacher, pretrained=False)
    scan = _checked_layers(teacher, recipe)
    return teacher, scan


def _checked_layers(teacher: Teacher, recipe: Recipe) -> LayerScan:
    """`layers_of`, one at least, at which the user's own operations can be built."""
    model, options = recipe.teacher.model, recipe.profiling
    scan = recipe_layers(teacher, recipe)
    if not scan.layers:
        left_out = f" and not --exclude {options.exclude!r}" if options.exclude else ""
        raise UserError(
            f"{model} has no layer that can be replaced and matches --layers {options.layers!r}{left_out}. "
            f"List the layers, and the reasons against others, with: lana layers {model}"
        )
    check_own(options.pool, [(layer, own_module(teacher.module, layer)) for layer in (*scan.layers, *scan.spans)])
    return scan


def recipe_layers(teacher: Teacher, recipe: Recipe) -> LayerScan:
    """The layers and spans that a recipe asks for; a detector's last predictors stay, unless --layers names layers."""
    keep = recipe.teacher.task == "detection" and recipe.profiling.layers == "*"
    return layers_of(teacher, recipe.profiling, keep_predictors=keep)


def layers_of(teacher: Teacher, options: ProfilingOptions, *, keep_predictors: bool = False) -> LayerScan:
    """The layers and spans of a teacher that a recipe asks for; with `keep_predictors`, all but the last predictors.

    Raises:
        UserError: a glob matches no part of the network.
    """
    names = [name for name, _ in teacher.module.named_modules() if name]
    for option, globs in {"--layers": options.layers, "--exclude": options.exclude}.items():
        _check_globs(option, globs.split(","), names)
    scan = find_layers(
        teacher.module,
        (teacher.example(),),
        include=options.layers.split(","),
        exclude=options.exclude.split(","),
        predictors=last_predictors(teacher.module, teacher.example()) if keep_predictors else (),
        granularity=options.granularity,
        max_span=options.max_span,
    )
    return dataclasses.replace(scan, spans=tuple(span for span in scan.spans if _has_an_inside(teacher, span)))


def _has_an_inside(teacher: Teacher, span: Layer) -> bool:
    """True if a span of a plain stack holds channels that neither border fixes; else its members do what it does."""
    return not span.between or not why_not_pruned(span, own_module(teacher.module, span))


def _check_globs(option: str, globs: Sequence[str], names: list[str]) -> None:
    """Refuse a glob that matches no part of the network: a slip there would change the pool without a word.

    Raises:
        UserError: see above.
    """
    for glob in filter(None, map(str.strip, globs)):
        if not any(fnmatch.fnmatchcase(name, glob) for name in ("", *names)):
            raise UserError(
                f"{option} {glob[:60]!r} matches no layer that can be replaced, nor another part of the network."
                f"{near(glob, names)} List the layers with: lana layers MODEL"
            )
