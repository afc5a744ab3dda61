"""COCO's json: images, categories and annotations, whose boxes are x, y, width, height in pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lana.data.boxes import Annotation, BoxedImage
from lana.errors import UserError

PLACES = ("*.json", "annotations/*.json", "*/*.json")
HELD_OUT = ("test", "val")
EXPECTED = "Expected COCO's images (file_name, width, height), annotations (image_id, category_id, bbox) and categories"


def coco_files(root: Path) -> list[Path]:
    """The files of a folder, or of the folders in it, that hold images and annotations."""
    found = [path for pattern in PLACES for path in sorted(root.glob(pattern))]
    return [path for path in dict.fromkeys(found) if _looks_like_coco(path)]


def _looks_like_coco(path: Path) -> bool:
    with path.open(errors="replace") as file:
        start = file.read(1 << 16)
    return '"images"' in start or '"annotations"' in start or '"categories"' in start


def read_coco(
    root: Path, files: Sequence[Path], classes: int
) -> tuple[tuple[list[BoxedImage], list[BoxedImage] | None], tuple[str, ...] | None]:
    """The training images and the test part, with the names of the classes.

    Files are told by their names (instances_train2017.json, valid/_annotations.coco.json); one alone is for training.
    Categories count in the order of their numbers; a network that has more classes than there are categories, and all
    their numbers among them, is taken to count by the numbers themselves.

    Raises:
        UserError: a file is no COCO json; it has other classes than the network; two files are of one part.
    """
    parts: dict[str, Path] = {}
    for file in files:
        part = next(
            (name for name in ("train", *HELD_OUT) if name in file.stem or file.parent.name.startswith(name)), ""
        )
        part = part or ("train" if len(files) == 1 else "")
        if part in parts:
            raise UserError(f"{root} holds {parts[part]} and {file} for the same part. Leave one of them there.")
        if part:
            parts[part] = file
    if "train" not in parts:
        raise UserError(f"{root} holds no COCO json of a training part. Expected annotations/instances_train….json.")
    test = next((parts[name] for name in HELD_OUT if name in parts), None)
    train, names = _read(root, parts["train"], classes)
    return (train, None if test is None else _read(root, test, classes)[0]), names


def _read(root: Path, file: Path, classes: int) -> tuple[list[BoxedImage], tuple[str, ...] | None]:
    try:
        content = json.loads(file.read_text())
        images, categories = content["images"], sorted(content["categories"], key=lambda one: one["id"])
        numbers = _numbers([one["id"] for one in categories], classes, file)
        sizes = {one["id"]: (one["width"], one["height"]) for one in images}
        boxes: dict[Any, list[tuple[Any, ...]]] = {number: [] for number in sizes}
        for one in content.get("annotations", []):
            width, height = sizes[one["image_id"]]
            x, y, across, down = one["bbox"]
            corners = (x / width, y / height, (x + across) / width, (y + down) / height)
            boxes[one["image_id"]].append((corners, numbers[one["category_id"]], bool(one.get("iscrowd", 0))))
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(f"{file} is no COCO json that can be read ({reason}). {EXPECTED}.") from error
    index = _Places(root, file)
    labelled = "annotations" in content
    found = [
        BoxedImage(
            source=index.find(one["file_name"]),
            name=one["file_name"],
            annotation=Annotation.of(*zip(*boxes[one["id"]], strict=True)) if boxes[one["id"]]
            else Annotation.of([], []) if labelled else None,
        )
        for one in images
    ]  # fmt: skip
    return found, tuple(str(one["name"]) for one in categories) if len(categories) == classes else None


def _numbers(ids: Sequence[int], classes: int, file: Path) -> Mapping[int, int]:
    if len(ids) < classes and ids and max(ids) < classes:
        return {number: number for number in ids}
    if len(ids) > classes:
        raise UserError(
            f"{file} has {len(ids)} categories, the network {classes} classes. "
            "Give data of the network's classes, or a --decode that gives as many."
        )
    return {number: index for index, number in enumerate(ids)}


class _Places:
    """Finds images by the names that a json has for them: beside it, in images/, or anywhere in the folder."""

    def __init__(self, root: Path, file: Path) -> None:
        part = file.stem.removeprefix("instances_")
        self.tried = [file.parent, root / part, root / "images" / part, root / "images", root]
        self.root, self.by_name = root, dict[str, Path]()

    def find(self, name: str) -> Path:
        for folder in self.tried:
            if (folder / name).is_file():
                return folder / name
        if not self.by_name:
            self.by_name = {path.name: path for path in self.root.rglob("*") if path.is_file()}
        return self.by_name.get(Path(name).name, self.tried[0] / name)
