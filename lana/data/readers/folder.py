"""Image files in a folder per class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lana.common.console import listed
from lana.common.progress import counted
from lana.config.references import data_folder
from lana.data.formats import images_among
from lana.data.images import encoded_images, require_images
from lana.data.split import Split
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher

logger = logging.getLogger(__name__)

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
    unread = [part.name for part in there if part != held_out and _class_folders(part)] if held_out else []
    if unread:
        logger.info(f"{root}: {held_out} is the test part; {', '.join(unread)} is not read.")
    test = _folder_split(held_out, classes, preprocessing) if held_out else None
    return (_folder_split(trained, classes, preprocessing), test), classes


def _class_folders(root: Path) -> set[str]:
    return {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}


def _folder_split(root: Path, classes: tuple[str, ...], preprocessing: Preprocessing) -> Split:
    extra = _class_folders(root) - set(classes)
    if extra:
        raise UserError(
            f"{root} has {counted(len(extra), 'class folder')} that the training part lacks: {listed(sorted(extra))}. "
            "Move their images to the training part too, or remove them."
        )
    found: list[tuple[Path, int]] = []
    left_out: list[Path] = []
    for label, name in enumerate(classes):
        images, others = images_among(sorted((root / name).rglob("*")))
        found += [(path, label) for path in images]
        left_out += others
    if not found:
        there = f" that Pillow reads ({_kinds(left_out)} are none)" if left_out else ""
        raise UserError(f"{root} holds no images{there}. Expected {root}/CLASS/IMAGE.jpg, one folder per class.")
    left_out += images_among(sorted(root.glob("*")))[0]  # beside the folders of classes
    _tell_left_out(root, len(found), left_out)
    if len(with_images := {label for _, label in found}) < len(classes):
        empty = [name for label, name in enumerate(classes) if label not in with_images]
        logger.warning(f"{root} holds no images of {listed(empty)}.")
    paths, labels = [path for path, _ in found], np.array([label for _, label in found])
    return encoded_images(paths, [str(path) for path in paths], labels, preprocessing)


def _tell_left_out(root: Path, read: int, left_out: Sequence[Path]) -> None:
    if not left_out:
        return
    names = ", ".join(str(path.relative_to(root)) for path in left_out[:3])
    logger.warning(
        f"{counted(read, 'image')} of {root} {'is' if read == 1 else 'are'} read, "
        f"{counted(len(left_out), 'file')} left out ({_kinds(left_out)}): {names}{' …' if len(left_out) > 3 else ''}. "
        "Images are rasters that Pillow decodes, in the folders of classes; convert or move the others."
    )


def _kinds(files: Sequence[Path]) -> str:
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in files).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in kinds[:5]) + (" …" if len(kinds) > 5 else "")
