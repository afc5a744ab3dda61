"""Boxes as labels of images: read in shares of an image, placed in the network's input, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lana.data.augmentation import BOX_FIELDS
from lana.data.formats import open_image
from lana.data.images import encoded_images, placement
from lana.data.split import Split
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing

FIELDS = BOX_FIELDS  # class (-1 pads), x1, y1, x2, y2 in pixels of the network's input, crowd
BEYOND = 0.02  # of the image: boxes reach over its edge by roundings, not by more
LEAST_SHOWN = 0.1  # of a box: what a crop leaves less of is no box there


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """The boxes of an image: x1 y1 x2 y2 in shares of it, their classes, and which of them are crowds."""

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, boxes: Any, classes: Any, crowd: Any = None) -> Annotation:
        """From sequences, which may be empty."""
        kinds = np.asarray(classes, dtype=np.int64).reshape(-1)
        marked = np.zeros(len(kinds), bool) if crowd is None else np.asarray(crowd, dtype=bool).reshape(-1)
        return cls(boxes=np.asarray(boxes, dtype=np.float64).reshape(-1, 4), classes=kinds, crowd=marked)


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxedImage:
    """An encoded image (path or bytes), its name for messages, and its boxes; None where nobody labelled it."""

    source: Any
    name: str
    annotation: Annotation | None


def boxed_split(images: Sequence[BoxedImage], preprocessing: Preprocessing, classes: int, where: str) -> Split:
    """The images with their boxes as labels, (N, most boxes, 6).

    Raises:
        UserError: there are none; a box is of a class that the network lacks, or outside its image; images cannot be
            read.
    """
    if not images:
        raise UserError(f"{where} holds no images. Expected raster images that Pillow reads.")
    _check(images, classes, where)
    rows: list[np.ndarray] = [np.zeros((0, FIELDS), np.float32)] * len(images)
    labelled = [i for i, image in enumerate(images) if image.annotation is not None and len(image.annotation.boxes)]
    with ThreadPoolExecutor(4) as threads:
        sizes = list(threads.map(_size, (images[i].source for i in labelled)))
    for i, size in zip(labelled, sizes, strict=True):
        annotation = images[i].annotation
        if size is not None and annotation is not None:  # an image without a size cannot be read: named when it is
            rows[i] = placed(annotation, size, preprocessing)
    labels = padded(rows)
    split = encoded_images([i.source for i in images], [i.name for i in images], labels, preprocessing)
    return replace(split, labels=labels, labelled=any(image.annotation is not None for image in images))


def placed(annotation: Annotation, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """The boxes of an image of (width, height) in the network's input, (n, 6); those that a crop cuts off are gone."""
    place = placement(size, preprocessing)
    scale, offset = np.tile([place.width, place.height], 2), np.tile([place.left, place.top], 2)
    whole = annotation.boxes.clip(0, 1) * scale + offset
    shown = whole.clip(0, np.tile([preprocessing.width, preprocessing.height], 2))
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (shown, whole)]
    seen = areas[0] > LEAST_SHOWN * areas[1]
    columns = (annotation.classes[:, None], shown, annotation.crowd[:, None])
    return np.concatenate(columns, 1).astype(np.float32)[seen]


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of boxes as one array, (N, most boxes, 6); the class -1 pads."""
    labels = np.full((len(rows), max(map(len, rows), default=0), FIELDS), -1, np.float32)
    for row, boxes in zip(labels, rows, strict=True):
        row[: len(boxes)] = boxes
    return labels


def _size(source: Any) -> tuple[int, int] | None:
    try:
        with open_image(source) as image:
            return image.size
    except Exception:  # as of open_image: reported with the others when it is decoded
        return None


def _check(images: Sequence[BoxedImage], classes: int, where: str) -> None:
    outside, unknown, shapeless = [], [], []
    for image in images:
        if image.annotation is None:
            continue
        boxes, kinds = image.annotation.boxes, image.annotation.classes
        if len(kinds) and not 0 <= kinds.min() <= kinds.max() < classes:
            unknown.append(f"{image.name} (class {kinds.min() if kinds.min() < 0 else kinds.max()})")
        if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
            shapeless.append(image.name)
        elif len(boxes) and (boxes.min() < -BEYOND or boxes.max() > 1 + BEYOND):
            outside.append(f"{image.name} ({boxes.min():.4g} to {boxes.max():.4g})")
    if unknown:
        raise UserError(
            f"{where}: {_named(unknown)} {_have(unknown)} boxes of classes that the network lacks: "
            f"it has {classes}, from 0. Give labels of the network's classes, in its order."
        )
    if shapeless:
        raise UserError(
            f"{where}: {_named(shapeless)} {_have(shapeless)} boxes that are none: a corner is no number, or the "
            "second lies before the first. Repair or remove them."
        )
    if outside:
        raise UserError(
            f"{where}: {_named(outside)} {_have(outside)} boxes outside of the image. Expected shares of the image's "
            "sides, 0 to 1. Divide pixels by the width and height, or repair the boxes."
        )


def _named(names: Sequence[str]) -> str:
    count = "1 image" if len(names) == 1 else f"{len(names)} images"
    return f"{count} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
