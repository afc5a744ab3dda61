"""Image files in a folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lana.config.references import data_folder
from lana.data.images import IMAGE_SUFFIXES, encoded_images, require_images
from lana.data.split import Split
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher

HELD_OUT = ("test", "val", "valid", "validation")  # folders of a test part, next to train


def read_folder(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], tuple[str, ...]]:
    """Read images in a folder per class, in PATH/train and PATH/test (or PATH/val) or in PATH itself."""
    root = data_folder(place)
    preprocessing = require_images(teacher, f"folder:{place}")
    there = [root / name for name in HELD_OUT if (root / name).is_dir()]
    held_out = next((part for part in there if _class_folders(part)), next(iter(there), None))  # test without labels?
    if (root / "train").is_dir() and (held_out or _class_folders(root) == {"train"}):
        trained = root / "train"
    else:
        trained, held_out = root, None
    classes = tuple(sorted(_class_folders(trained)))
    test = _folder_split(held_out, classes, preprocessing) if held_out else None
    return (_folder_split(trained, classes, preprocessing), test), classes


def _class_folders(root: Path) -> set[str]:
    return {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}


def _folder_split(root: Path, classes: tuple[str, ...], preprocessing: Preprocessing) -> Split:
    extra = _class_folders(root) - set(classes)
    if extra:
        raise UserError(f"{root} has the classes {', '.join(sorted(extra))} that the training part lacks.")
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise UserError(f"{root} holds no images. Expected {root}/CLASS/IMAGE.jpg, one folder per class.")
    paths, labels = [path for path, _ in found], np.array([label for _, label in found])
    return encoded_images(paths, [str(path) for path in paths], labels, preprocessing)
