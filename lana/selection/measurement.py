"""Students assembled from the pool, and measured: latency beside the teacher, distance to it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lana.evaluation.distance import DistanceToTeacher
from lana.models.selection import Selection
from lana.models.student import assemble
from lana.networks.layers import Layer
from lana.networks.mixed_precision import Compute
from lana.pool.candidates import Offer
from lana.pool.stages import Pool
from lana.runs.baseline import teacher_computation
from lana.runs.context import RunContext
from lana.training.batchnorm import reestimate_batchnorm
from profilers import Comparison, Computation, compare

CANDIDATE_IMAGES = 2000  # on which candidates are compared (the paper: 6000), and statistics of BatchNorm taken

LOSS_IMAGES, NORM_IMAGES = 1000, 600  # on which the losses that correct the scores are measured, many times


def unique_layers(offers: Sequence[Offer]) -> list[Layer]:
    return list({offer.layer.name: offer.layer for offer in offers}.values())


def reference(context: RunContext, images: int = CANDIDATE_IMAGES, precision: str = "fp32") -> DistanceToTeacher:
    """What students are compared with, on images that neither distilling nor scoring has seen."""
    split = context.data.validation.take(images, context.recipe.seed + 3)
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
    split = context.data.train.take(images, context.recipe.seed + 2)
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
