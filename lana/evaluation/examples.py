"""The task that a user names, and the data that it is for."""

from __future__ import annotations

from lana.data.loading import load_data
from lana.data.split import Data
from lana.errors import UserError
from lana.evaluation.detection import Detection, check_decoder, classes_of, make_detection, with_teacher_boxes
from lana.evaluation.task import Task, load_task
from lana.models.teacher import Teacher


def make_task(reference: str, teacher: Teacher, decode: str | None = None) -> Task:
    """The task by its reference, for a network.

    Raises:
        UserError: an unknown task; a decoder that is missing, unknown, or not asked for.
    """
    if reference == "detection":
        return make_detection(teacher, decode)
    if decode is not None:
        raise UserError(f"--decode is for --task detection; the task is {reference}. Leave one of them out.")
    return load_task(reference)


def load_examples(
    reference: str, teacher: Teacher, task: Task, *, seed: int = 0, device: str = "cpu"
) -> tuple[Task, Data]:
    """The data for a task, and the task as the data have it: without boxes, a detector is compared with itself.

    Raises:
        UserError: as `load_data`.
    """
    if not isinstance(task, Detection):
        return task, load_data(reference, teacher, seed=seed)
    data = load_data(reference, teacher, seed=seed, box_classes=classes_of(teacher, task))
    check_decoder(teacher, data, task)
    judged = Detection(task.decoder, labelled=data.test.labelled)
    return judged, with_teacher_boxes(data, teacher, judged, device)
