"""Students built from the pool, and measured: latency beside the teacher, distance to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lana.common.progress import Progress, counted
from lana.config.recipe import fingerprint
from lana.engines.choice import create_engine
from lana.engines.units import Report, Unit, map_units
from lana.evaluation.distance import DistanceToTeacher
from lana.models.selection import Selection
from lana.models.student import assemble
from lana.networks.mixed_precision import Compute
from lana.pool.stages import Pool, make_pool
from lana.runs.baseline import teacher_computation
from lana.runs.context import RunContext
from lana.runs.run import POOL
from lana.runs.time_plan import UnitTimes
from lana.runs.workers import LoadedRun, one_thread
from lana.selection.precision import as_promised, student_computation
from lana.training.batchnorm import reestimate_batchnorm
from profilers import Comparison, Computation, compare

CANDIDATE_IMAGES = 2000  # on which candidates are compared (the paper: 6000), and statistics of BatchNorm taken

RANGE_IMAGES = 128  # on which the int8 ranges of a student are taken whose loss is measured

LOSS_IMAGES, NORM_IMAGES = 1000, 600  # on which the losses that correct the scores are measured, many times


@dataclass(frozen=True, kw_only=True, eq=False)
class StudentMeasurer:
    """Measures students of a run's pool on this machine."""

    context: RunContext
    pool: Pool

    def latencies(self, selections: Sequence[Selection], processes: int) -> list[Comparison]:
        """Beside the teacher, each in so many fresh processes."""
        context = self.context
        students = [
            student_computation(
                context,
                assemble(context.teacher.module, self.pool.layers, selection, self.pool.operations),
                selection,
                context.run.pool / "networks",
                name=f"student {number}",
            )
            for number, selection in enumerate(selections)
        ]
        with Progress(f"Measuring {counted(len(students), 'student')}") as progress:
            comparisons = compared(context, students, processes)
            progress.update(1)
        for student in students:
            student.file.unlink(missing_ok=True)
        return comparisons

    def losses(self, selections: Sequence[Selection]) -> list[float]:
        """Mean distances of their outputs to the teacher's, each student a unit of work of the recipe's engine."""
        context, compute = self.context, self.context.recipe.compute
        how = context.run.parts(context.recipe, *POOL)
        pass_s = UnitTimes.of(context).pass_s
        units = {
            selection: Unit(
                name=f"student-{fingerprint([how, sorted(selection.items())])}",
                content=dict(selection),
                seconds=pass_s * (LOSS_IMAGES + NORM_IMAGES),
            )
            for selection in selections
        }
        engine = create_engine(
            compute.engine,
            list(units.values()),
            workers=compute.workers,
            device=compute.device,
            shared=context.run.path.resolve(),
        )
        title, work = f"Measuring the loss of {counted(len(units), 'student')}", LossWork(context, self.pool)
        found = map_units(engine, work, list(units.values()), context.run.path / "units" / "losses", title=title)
        values = {unit.name: value for unit, value in found}
        return [values[units[selection].name] for selection in selections]


class LossWork:
    """The loss of a student, in the process of a worker, which loads the finished pool once."""

    def __init__(self, context: RunContext, pool: Pool) -> None:
        self.run, self._pool = LoadedRun(context), pool
        self._distance: DistanceToTeacher | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"run": self.run, "_pool": None, "_distance": None}

    def __call__(self, selection: Mapping[str, str], report: Report) -> float:
        with one_thread():
            context = self.run.context
            self._pool = self._pool or make_pool(context)
            self._distance = self._distance or reference(context, LOSS_IMAGES, precision="auto")
            chosen = Selection(selection)
            student = assembled(context, self._pool, chosen, NORM_IMAGES, precision="auto")
            return float(self._distance.measure(as_promised(context, student, chosen, RANGE_IMAGES)).mean())


def reference(context: RunContext, images: int = CANDIDATE_IMAGES, precision: str = "fp32") -> DistanceToTeacher:
    """What students are compared with, on images that neither distilling nor scoring has seen."""
    split = context.data.validation.subset(images, context.recipe.seed + 3)
    return DistanceToTeacher(
        context.teacher.module, split, context.task, Compute(context.recipe.compute.device, precision)
    )


def assembled(
    context: RunContext,
    pool: Pool,
    selection: Selection,
    images: int = CANDIDATE_IMAGES,
    precision: str = "fp32",
) -> nn.Module:
    """The student of a selection with trained operations and BatchNorm statistics of its own."""
    student = assemble(context.teacher.module, pool.layers, selection, pool.operations)
    split = context.data.train.subset(images, context.recipe.seed + 2)
    reestimate_batchnorm(student, split, compute=Compute(context.recipe.compute.device, precision))
    return student.cpu()


def compared(context: RunContext, students: Sequence[Computation], processes: int) -> list[Comparison]:
    """Whole networks beside the teacher, in fresh processes."""
    return compare(
        teacher_computation(context),
        students,
        runtime=context.recipe.profiling.runtime,
        settings=context.runtime_settings,
        processes=processes,
    )
