"""YOLO's layout: `images/` beside `labels/`, a text file of boxes an image, and mostly a `data.yaml`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lana.common.progress import counted
from lana.data.boxes import Annotation, BoxedImage
from lana.data.formats import images_among
from lana.errors import UserError

logger = logging.getLogger(__name__)

HELD_OUT = ("test", "val", "valid", "validation")


def is_yolo(root: Path) -> bool:
    """True for a folder with images/ and labels/, or with a yaml file that names where they are."""
    return _yaml_file(root) is not None or ((root / "images").is_dir() and (root / "labels").is_dir())


def read_yolo(
    root: Path, classes: int
) -> tuple[tuple[list[BoxedImage], list[BoxedImage] | None], tuple[str, ...] | None]:
    """The training images and the test part, with the names of the classes.

    Raises:
        UserError: the yaml file or a label file cannot be read, or it names other classes than the network has.
    """
    file = _yaml_file(root)
    if file is None:
        folders = {part.name: [part] for part in (root / "images").iterdir() if part.is_dir()}
        train = folders.get("train", [root / "images"])
        test = next((folders[name] for name in HELD_OUT if name in folders), None) if "train" in folders else None
        return (_images(train), None if test is None else _images(test)), None
    content = _read_yaml(file)
    names = _class_names(content, file, classes)
    base = (root / str(content["path"])) if content.get("path") else root
    base = base if base.is_dir() else root  # a path of the machine that it was written on
    parts = {name: _places(content[name], base, file) for name in ("train", "test", "val") if content.get(name)}
    if "train" not in parts:
        raise UserError(f"{file} names no train. Expected the folder of the training images.")
    held_out = [_images(parts[name]) for name in ("test", "val") if name in parts]
    labelled = [images for images in held_out if any(image.annotation is not None for image in images)]
    return (_images(parts["train"]), next(iter(labelled or held_out), None)), names


def _yaml_file(root: Path) -> Path | None:
    for file in sorted((*root.glob("*.yaml"), *root.glob("*.yml")), key=lambda file: file.stem != "data"):
        text = file.read_text(errors="replace")
        if "train:" in text and ("names:" in text or "nc:" in text):
            return file
    return None


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({str(error)[:200]}). Expected YOLO's train, val and names.") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds no mapping. Expected YOLO's train, val and names.")
    return content


def _class_names(content: Mapping[str, Any], file: Path, classes: int) -> tuple[str, ...] | None:
    given = content.get("names")
    names = tuple(map(str, given.values() if isinstance(given, Mapping) else given or ()))
    count = len(names) or content.get("nc")
    if count is not None and count != classes:
        raise UserError(
            f"{file} has {count} classes, the network {classes}. "
            "Give data of the network's classes, in its order, or a --decode that gives as many."
        )
    return names or None


def _places(given: Any, base: Path, file: Path) -> list[Path]:
    """The folders, or the text files that list images, of a part."""
    places = []
    for entry in given if isinstance(given, list) else [given]:
        tried = [base / str(entry), file.parent / str(entry), base / str(entry).removeprefix("../")]
        found = next((place for place in tried if place.exists()), None)
        if found is None:
            raise UserError(f"{file} names {entry}, and there is nothing at {tried[0]}. Mend its paths.")
        places.append(found)
    return places


def _images(places: list[Path]) -> list[BoxedImage]:
    """The images of a part; one without a label file has no boxes, where any has some."""
    paths: list[Path] = []
    for place in places:
        if place.is_file():
            listed = [Path(line.strip()) for line in place.read_text().splitlines() if line.strip()]
            paths += [path if path.is_absolute() else place.parent / path for path in listed]
        else:
            paths += images_among(sorted(place.rglob("*")))[0]
    files = [_label_file(path) for path in paths]
    missing = [path for path, file in zip(paths, files, strict=True) if not file.is_file()]
    if missing and len(missing) < len(paths):
        logger.warning(
            f"{counted(len(missing), 'image')} of {len(paths)} in {places[0]} without a label file, as {missing[0]}: "
            "taken as images without any box."
        )
    alone = len(missing) == len(paths)
    return [
        BoxedImage(source=path, name=str(path), annotation=None if alone else _annotation(file))
        for path, file in zip(paths, files, strict=True)
    ]


def _label_file(image: Path) -> Path:
    """…/images/…/a.jpg → …/labels/…/a.txt, the last folder of that name."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _annotation(file: Path) -> Annotation:
    if not file.is_file():
        return Annotation.of([], [])
    classes, boxes = [], []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, *values = map(float, line.split())
        except ValueError:
            kind, values = -1.0, []
        if not kind.is_integer() or len(values) < 4 or (len(values) > 5 and len(values) % 2):
            raise UserError(
                f"{file}, line {number}: {line[:60]!r}. Expected a class and a box: number, centre x, centre y, width, "
                "height, in shares of the image; or a class and a polygon."
            )
        classes.append(int(kind))
        boxes.append(_corners(values))
    return Annotation.of(boxes, classes)


def _corners(values: list[float]) -> tuple[float, float, float, float]:
    """The corners of a box by its centre and size, or of a polygon."""
    if len(values) > 5:
        points = np.array(values).reshape(-1, 2)
        return (*map(float, points.min(0)), *map(float, points.max(0)))  # type: ignore[return-value]
    x, y, width, height = values[:4]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
