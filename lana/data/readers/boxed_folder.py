"""A folder of images with boxes, its kind told by what lies there: YOLO's layout, a COCO json, or images alone."""

from __future__ import annotations

from lana.config.references import data_folder
from lana.data.boxes import BoxedImage, boxed_split
from lana.data.formats import images_among
from lana.data.images import require_images
from lana.data.readers.coco import coco_files, read_coco
from lana.data.readers.yolo import is_yolo, read_yolo
from lana.data.split import Split
from lana.models.teacher import Teacher

Parts = tuple[list[BoxedImage], list[BoxedImage] | None]


def read_boxed_folder(
    place: str, teacher: Teacher, classes: int
) -> tuple[tuple[Split, Split | None], tuple[str, ...] | None]:
    """Read the training images and, where there is one, the test part of a folder; boxes of `classes` classes."""
    root = data_folder(place)
    preprocessing = require_images(teacher, f"folder:{place}")
    names: tuple[str, ...] | None = None
    if is_yolo(root):
        parts, names = read_yolo(root, classes)
    elif files := coco_files(root):
        parts, names = read_coco(root, files, classes)
    else:
        paths, _ = images_among(sorted(root.rglob("*")))
        parts = [BoxedImage(source=path, name=str(path), annotation=None) for path in paths], None
    train, test = parts
    where = f"folder:{place}"
    held_out = None if test is None else boxed_split(test, preprocessing, classes, where)
    return (boxed_split(train, preprocessing, classes, where), held_out), names
