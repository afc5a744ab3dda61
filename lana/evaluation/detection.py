"""Detection: mean average precision of the whole set; learnt from the teacher's candidates alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.config.options import FineTuning
from lana.data.boxes import padded
from lana.data.split import Data, Split
from lana.detection.average_precision import mean_average_precision, record
from lana.detection.decoders import DECODERS, EXPECTED, Decoded, Decoder, make_decoder
from lana.detection.distance import distance
from lana.detection.suppression import Detections, detections
from lana.errors import UserError
from lana.evaluation.metrics import EVALUATION_BATCH, evaluating
from lana.models.teacher import Teacher
from lana.networks.mixed_precision import Compute

logger = logging.getLogger(__name__)

SHOWN_SCORE = 0.25  # of a detection of the teacher that counts as true where there are no labels
IN_SHARES = 1.5  # pixels: where no box of real images reaches farther, they are shares of the image


class Detection:
    """Boxes and classes by a decoder; labels (N, most boxes, 6) in pixels of the network's input, or the teacher's own.

    The loss against labels is zero: they stay out of training.
    """

    def __init__(self, decoder: Decoder, *, labelled: bool = True) -> None:
        self.decoder, self.labelled = decoder, labelled
        self.metric_name = "mAP50-95" if labelled else "mAP50 against the teacher's detections"

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        return torch.zeros(len(labels), device=labels.device)

    def metric(self, output: Any, labels: Tensor) -> list[Mapping[str, Tensor]]:
        """A record an image: which of its detections are right."""
        records = []
        for found, true in zip(self.detections(output), labels.cpu().numpy(), strict=True):
            true = true[true[:, 0] >= 0]
            boxes, scores, classes = (tensor.numpy() for tensor in found)
            crowd = true[:, 5] > 0
            records.append(record(boxes, scores, classes, true[:, 1:5], true[:, 0].astype(np.int64), crowd))
        return records

    def figure(self, records: Sequence[Mapping[str, Tensor]]) -> float:
        averages = mean_average_precision(records)
        return float(averages.mean() if self.labelled else averages[0])

    def figures(self, records: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Further figures of the same records, by name."""
        return {"mAP50": float(mean_average_precision(records)[0])} if self.labelled else {}

    def distance(self, output: Any, teacher_output: Any) -> Tensor:
        return distance(self.decoder(output), self.decoder(teacher_output))

    def chance(self, output: Any) -> float:
        return 0.0

    def detections(self, output: Any, *, least: float | None = None) -> list[Detections]:
        """The detections of each image, after suppression."""
        decoded = self.decoder(output)
        limit = {} if least is None else {"least": least}
        return [
            detections(boxes, scores, self.decoder.overlap, **limit)
            for boxes, scores in zip(decoded.boxes, decoded.scores, strict=True)
        ]


def make_detection(teacher: Teacher, decode: str | None) -> Detection:
    """The task of a detector.

    Raises:
        UserError: no decoder was given, or one that does not exist; the network takes no images.
    """
    if teacher.preprocessing is None:
        raise UserError("--task detection is for images: give --image-size instead of --input-shape.")
    if decode is None:
        raise UserError(
            "--task detection needs --decode, the meaning of the network's outputs. Expected one of "
            f"{', '.join(DECODERS)}, or path/to/file.py:function. {EXPECTED}"
        )
    size = (teacher.preprocessing.height, teacher.preprocessing.width)
    anchors = getattr(teacher.module, "anchors", None)
    return Detection(make_decoder(decode, size, anchors(size) if callable(anchors) else anchors))


def classes_of(teacher: Teacher, task: Detection) -> int:
    """The number of classes that the network tells apart, on a random example."""
    with torch.no_grad():
        return task.decoder(teacher.module(teacher.example())).scores.shape[2]


def check_decoder(teacher: Teacher, data: Data, task: Detection) -> None:
    """Refuse a decoder whose candidates cannot be, on real images.

    Raises:
        UserError: scores that are no numbers or outside 0…1, boxes that are no numbers or in shares of the image.
    """
    inputs, _ = next(data.test.batches(4))
    with torch.no_grad():
        decoded: Decoded = task.decoder(teacher.module(inputs))
    name, scores, boxes = f"--decode {task.decoder.name}", decoded.scores, decoded.boxes
    if len(scores) != len(inputs):
        raise UserError(f"{name} gives {len(scores)} rows for {len(inputs)} images. {EXPECTED}")
    for what, tensor in (("scores", scores), ("boxes", boxes)):
        if not tensor.isfinite().all():
            raise UserError(
                f"{name}: {int((~tensor.isfinite()).sum())} of {tensor.numel()} {what} are no numbers on real images. "
                "Check the decoder, --weights, --mean and --std."
            )
    if scores.min() < 0 or scores.max() > 1:
        raise UserError(
            f"{name} gives scores from {float(scores.min()):.3g} to {float(scores.max()):.3g}. {EXPECTED} "
            "Logits need a sigmoid or a softmax."
        )
    if boxes.max() < IN_SHARES:
        raise UserError(
            f"{name} gives boxes of at most {float(boxes.max()):.3g}: they look like shares of the image. {EXPECTED} "
            f"Multiply them by {task.decoder.size[1]} and {task.decoder.size[0]}."
        )


def check_options(task: Detection, settings: FineTuning, score_by: str) -> None:
    """Refuse what needs labels in the loss, and a temperature of outputs that are no logits.

    Raises:
        UserError: see above.
    """
    if score_by == "task":
        raise UserError("--score-by task is the loss on labels, which --task detection leaves out. Give distance.")
    if settings.epochs and settings.distillation == 0:
        raise UserError("--task detection learns from the teacher alone: give --distillation above 0.")
    if settings.temperature != 1:
        raise UserError("--temperature divides logits; outputs of a detector hold boxes as well. Leave it out.")


def with_teacher_boxes(data: Data, teacher: Teacher, task: Detection, device: str = "cpu") -> Data:
    """The data whose parts without labels have the teacher's own detections as labels: validation and test.

    Raises:
        UserError: it detects nothing on them.
    """
    validation, test = (
        split if split.labelled else _relabelled(split, teacher, task, device) for split in (data.validation, data.test)
    )
    return replace(data, validation=validation, test=test)


def _relabelled(split: Split, teacher: Teacher, task: Detection, device: str) -> Split:
    rows: list[np.ndarray] = []
    with evaluating(teacher.module, Compute(device)), torch.no_grad():
        for inputs, _ in split.batches(EVALUATION_BATCH, device=device):
            rows += [_label(found) for found in task.detections(teacher.module(inputs), least=SHOWN_SCORE)]
    if not any(map(len, rows)):
        raise UserError(
            f"The teacher detects nothing above a score of {SHOWN_SCORE} on {len(split)} images without labels. "
            "Check --decode, --weights, --fit, --mean, --std and --channel-order, or give images with objects."
        )
    found = sum(map(len, rows))
    logger.info(
        f"{len(split)} images without labels: compared with the teacher's own detections above a score of "
        f"{SHOWN_SCORE} ({found} boxes)."
    )
    labels = padded(rows)
    position = {int(index): row for row, index in enumerate(split.indices)}

    def read(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs, _ = split.read(indices)
        return inputs, torch.from_numpy(labels[[position[int(index)] for index in indices]])

    return replace(split, read=read, labels=labels, workers=0)


def _label(found: Detections) -> np.ndarray:
    columns = (found.classes[:, None].float(), found.boxes, torch.zeros(len(found.boxes), 1))
    return torch.cat(columns, 1).numpy().astype(np.float32)
