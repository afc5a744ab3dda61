"""Readers of data: digits, folders, parquet, npz, the Hugging Face hub, a user's function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.common.importing import explain_function, function_from_file, require
from lana.config.references import data_folder
from lana.data.images import CHANNELS, IMAGE_SUFFIXES, encoded_images, require_images, to_pixels
from lana.data.split import TEST_SHARE, Split, from_arrays, split_in_two
from lana.errors import UserError
from lana.models.teacher import Preprocessing, Teacher

HELD_OUT = ("test", "val", "valid", "validation")  # folders of a test part, beside train

IMAGES, LABELS = ("image", "img"), ("label", "fine_label", "labels")  # columns


def read_digits(teacher: Teacher) -> tuple[tuple[Split, Split], tuple[str, ...]]:
    """scikit-learn's 1797 handwritten digits (8×8 grey), four fifths for training."""
    from sklearn.datasets import load_digits

    preprocessing = require_images(teacher, "digits")
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    from PIL import Image

    images = torch.stack([to_pixels(Image.fromarray(image), preprocessing) for image in pixels])
    everything = from_arrays(images, torch.from_numpy(digits.target), preprocessing)
    return split_in_two(everything, TEST_SHARE, seed=0), tuple(str(digit) for digit in range(10))


def read_folder(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], tuple[str, ...]]:
    """A folder per class; PATH/train, perhaps with PATH/test (or PATH/val), or all in one."""
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
        raise UserError(f"{root} has the classes {', '.join(sorted(extra))} that the training part has not.")
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


def read_parquet(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], None]:
    """Image and label columns, as Hugging Face data sets store them; train.parquet and test.parquet, or one file."""
    root = Path(place).expanduser()
    preprocessing = require_images(teacher, f"parquet:{place}")
    if root.is_dir():
        trained, *others = (sorted(root.glob(f"{name}*.parquet")) for name in ("train", "test", "val"))
    else:
        trained, others = [root] if root.is_file() else [], []
    if not trained:
        raise UserError(
            f"parquet:{place}: expected a parquet file, or a folder with train.parquet and test.parquet, at {root}."
        )
    tests = (_parquet_split(part, preprocessing) for part in others if part)
    return (_parquet_split(trained, preprocessing), _labelled(tests)), None


def _labelled(splits: Iterable[Split]) -> Split | None:
    """The first that has labels: of a published test part they are often withheld, which is written as -1."""
    first = None
    for split in splits:
        if split.labels is None or (split.labels >= 0).any():
            return split
        first = first or split
    return first


def _parquet_split(files: list[Path], preprocessing: Preprocessing) -> Split:
    import pyarrow as pa
    from pyarrow import parquet

    encoded: list[Any] = []
    labels: list[Any] = []
    names: list[str] = []
    for file in files:
        try:
            image, label = _image_and_label(parquet.read_schema(file).names, str(file))
            table = parquet.read_table(file, columns=[image, label])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a readable parquet file ({str(error)[:200]}).") from error
        cells = table.column(image).to_pylist()
        encoded += [cell["bytes"] if isinstance(cell, Mapping) else cell for cell in cells]
        labels += table.column(label).to_pylist()
        names += [f"{file.name} row {row}" for row in range(len(cells))]
    return encoded_images(encoded, names, _classes_of(labels, f"{files[0]}: {label!r}"), preprocessing)


def _classes_of(labels: Sequence[Any], where: str) -> np.ndarray:
    """Labels as an array.

    Raises:
        UserError: they are no numbers of classes.
    """
    found = np.array(labels)
    if found.dtype.kind not in "iu":
        raise UserError(f"{where} holds {labels[:1]!r} among others. Expected the numbers of classes, from 0.")
    return found


def _image_and_label(columns: Collection[str], where: str) -> tuple[str, str]:
    """The columns that hold the images and the labels.

    Raises:
        UserError: one of them is not there.
    """
    image, label = (next((name for name in known if name in columns), None) for known in (IMAGES, LABELS))
    if image is None or label is None:
        raise UserError(f"{where} has the columns {', '.join(columns)}; expected 'image' and 'label'.")
    return image, label


def read_npz(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], None]:
    """Arrays x_train, y_train and perhaps x_test, y_test: uint8 images (N, H, W[, C]), or ready inputs as floats."""
    path = Path(place).expanduser()
    try:
        with np.load(path) as content:
            arrays = {name: _native(content[name]) for name in content.files}
    except Exception as error:
        raise UserError(
            f"npz:{place}: {path} cannot be read ({type(error).__name__}: {error}). Expected a file written by "
            "numpy.savez(path, x_train=…, y_train=…) with arrays of numbers."
        ) from error
    if not {"x_train", "y_train"} <= arrays.keys() or ("x_test" in arrays) != ("y_test" in arrays):
        held = f"{', '.join(list(arrays)[:6])}{' …' if len(arrays) > 6 else ''}"
        raise UserError(f"{path} has the arrays {held}; expected x_train and y_train (and x_test, y_test).")
    splits = [
        _array_split(arrays[f"x_{part}"], arrays[f"y_{part}"], teacher, place) if f"x_{part}" in arrays else None
        for part in ("train", "test")
    ]
    return (splits[0], splits[1]), None  # type: ignore[return-value]


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's order of bytes, the only one that torch takes."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _array_split(inputs: np.ndarray, labels: np.ndarray, teacher: Teacher, place: str) -> Split:
    if inputs.dtype.kind in "iu" and inputs.dtype != np.uint8:
        raise UserError(f"npz:{place} holds inputs of type {inputs.dtype}. Expected uint8 images, or floats.")
    if labels.dtype.kind not in "biuf":
        raise UserError(f"npz:{place} holds labels of type {labels.dtype}. Expected the numbers of classes, from 0.")
    if inputs.dtype != np.uint8 and not np.isfinite(inputs).all():
        raise UserError(f"npz:{place} holds inputs that are no finite numbers. Take those examples out, or mend them.")
    if inputs.dtype != np.uint8:
        return _check_shape(from_arrays(inputs.astype(np.float32), labels, None), teacher, f"npz:{place}")
    from PIL import Image

    preprocessing = require_images(teacher, f"npz:{place}")
    if inputs.ndim == 4 and inputs.shape[3] not in CHANNELS and inputs.shape[1] in CHANNELS:
        inputs = inputs.transpose(0, 2, 3, 1)  # channels first
    if inputs.ndim not in (3, 4) or (inputs.ndim == 4 and inputs.shape[3] not in CHANNELS):
        raise UserError(
            f"npz:{place} holds uint8 of shape {inputs.shape}. "
            "Expected images (N, H, W), or (N, H, W, C) of 1, 3 or 4 channels."
        )
    pictures = inputs[..., 0] if inputs.ndim == 4 and inputs.shape[3] == 1 else inputs
    images = [to_pixels(Image.fromarray(np.ascontiguousarray(picture)), preprocessing) for picture in pictures]
    return from_arrays(torch.stack(images) if images else inputs, labels, preprocessing)


def read_hub(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], tuple[str, ...] | None]:
    """A data set of the Hugging Face hub with image and label columns."""
    datasets = require("datasets", extra="datasets")
    preprocessing = require_images(teacher, f"hf:{place}")
    try:
        content = datasets.load_dataset(place)
    except Exception as error:
        raise UserError(f"hf:{place} could not be loaded ({type(error).__name__}: {str(error)[:200]}).") from error
    if "train" not in content:
        raise UserError(f"hf:{place} has the splits {', '.join(content)}; expected 'train'.")
    features = content["train"].features
    image, label = _image_and_label(features, f"hf:{place}")
    classes = getattr(features[label], "names", None)
    train, *tests = (
        _hub_split(content[name], image, label, preprocessing)
        for name in ("train", "test", "validation")
        if name in content
    )
    return (train, _labelled(tests)), tuple(classes) if classes else None


def _hub_split(part: Any, image: str, label: str, preprocessing: Preprocessing) -> Split:
    def read(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = part[indices.tolist()]
        pixels = torch.stack([to_pixels(picture, preprocessing) for picture in rows[image]])
        return pixels, torch.tensor(rows[label])

    labels = _classes_of(list(part[label]), f"The column {label!r}")
    return Split(read=read, indices=np.arange(len(part)), labels=labels, preprocessing=preprocessing)


def read_function(path: str, name: str, teacher: Teacher) -> tuple[Split, Split | None]:
    """A function returning (train, test) or train: sequences of (input, label), inputs ready for the network."""
    with explain_function(f"{path}:{name}"):
        returned = function_from_file(path, name, what="data")()
    pair = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    splits = [_dataset_split(part, teacher, f"{path}:{name}") if part is not None else None for part in pair]
    return splits[0], splits[1]  # type: ignore[return-value]


def _dataset_split(dataset: Any, teacher: Teacher, reference: str) -> Split:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        raise UserError(
            f"{reference} returned {type(dataset).__name__}; expected (train, test), sequences of (input, label)."
        )

    def read(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        with explain_function(reference):
            examples = [dataset[int(index)] for index in indices]
        inputs = torch.stack([torch.as_tensor(example[0]) for example in examples])
        return inputs.float(), torch.stack([torch.as_tensor(example[1]) for example in examples])

    with explain_function(reference):
        example = dataset[0]
    try:
        first, _ = (torch.as_tensor(each) for each in example[:2])
    except Exception as error:
        parts = ", ".join(type(each).__name__ for each in example) if isinstance(example, (tuple, list)) else ""
        raise UserError(
            f"{reference} gives an example as {type(example).__name__}{f' of {parts}' if parts else ''}. "
            "Expected (input, label): tensors, arrays or numbers."
        ) from error
    if not first.is_floating_point():
        raise UserError(
            f"{reference} gives inputs of type {str(first.dtype).removeprefix('torch.')}. Expected floats, as the "
            "network takes them: images scaled and normalised."
        )
    split = Split(read=read, indices=np.arange(len(dataset)), labels=None, preprocessing=None)
    return _check_shape(split, teacher, reference)


def _check_shape(split: Split, teacher: Teacher, reference: str) -> Split:
    shape = tuple(split.read(np.array([0]))[0].shape[1:])
    if shape != teacher.input_shape:
        raise UserError(
            f"{reference} gives examples of shape {shape}, the model takes {teacher.input_shape}. "
            "Give --input-shape or --image-size, or prepare the examples accordingly."
        )
    return split
