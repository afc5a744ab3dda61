"""Load examples from a reference, and the splits: train, a validation part of it, and test.

Distilling, scoring, ranking and fine-tuning read `train`; choices are made on `validation`; `test` is read for
reported figures only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lana.augment import shift_and_flip
from lana.errors import UserError
from lana.importing import explain_function, function_from_file, require
from lana.references import check_data, data_folder
from lana.teacher import Preprocessing, Teacher

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2  # of a data set that comes without a test split
HELD_OUT = ("test", "val", "valid", "validation")  # folders of a test part, beside train
CHANNELS = (1, 3, 4)  # of images: grey, RGB, RGBA
IMAGES, LABELS = ("image", "img"), ("label", "fine_label", "labels")  # columns
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
MEMORY_BYTES = 2 << 30  # decoded images are kept up to this size, else decoded anew at every use


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Some examples: `read(indices)` gives inputs (n, …) and labels (n, …); images as uint8 before normalisation.

    `labels` is None where examples have none or they are not one number each.
    """

    read: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    indices: np.ndarray
    labels: np.ndarray | None
    preprocessing: Preprocessing | None

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, count: int, seed: int = 0) -> Split:
        """A seeded random part of at most `count` examples."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return self.part(chosen)

    def part(self, positions: np.ndarray) -> Split:
        labels = None if self.labels is None else self.labels[positions]
        return Split(read=self.read, indices=self.indices[positions], labels=labels, preprocessing=self.preprocessing)

    def batches(self, size: int, *, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in order: inputs (≤ size, …) ready for the network, and labels."""
        for start in range(0, len(self), size):
            yield self._batch(self.indices[start : start + size], device)

    def epoch(
        self, size: int, *, seed: int, augment: bool = False, device: str = "cpu", share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in an order decided by the seed, in full batches of `size` (fewer where there are fewer).

        `share` (i, n) gives the i-th of n equal parts of every batch: n processes together see what one would.
        """
        size, (part, parts) = min(size, len(self)), share
        order = np.random.default_rng(seed).permutation(self.indices)
        generator = torch.Generator().manual_seed(seed * parts + part)
        for start in range(0, len(order) - size + 1, size):
            inputs, labels = self._batch(order[start + part : start + size : parts], device)
            if (
                augment and self.preprocessing is not None and labels.ndim == 1
            ):  # maps of labels would have to move along
                inputs = shift_and_flip(inputs, generator, flip=self.preprocessing.channels == 3)
            yield inputs, labels

    def steps(self, size: int) -> int:
        """Batches in one `epoch`."""
        return len(self) // min(size, len(self))

    def _batch(self, indices: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
        inputs, labels = self.read(indices)
        inputs, labels = inputs.to(device), labels.to(device)
        if not labels.is_floating_point():
            labels = labels.long()  # the only one that losses take
        if self.preprocessing is not None:
            mean, std = (
                torch.tensor(values, device=device).view(1, -1, 1, 1)
                for values in (self.preprocessing.mean, self.preprocessing.std)
            )
            inputs = (inputs.float() / 255 - mean) / std
        return inputs, labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """The three splits and the names of the classes, where known."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...] | None


def load_data(reference: str, teacher: Teacher, *, seed: int = 0) -> Data:
    """The data that `reference` names, preprocessed as the teacher wants it.

    Raises:
        UserError: an unknown reference, nothing there, unreadable images (named and counted), too few examples.
    """
    check_data(reference)
    kind, _, place = reference.partition(":")
    splits: tuple[Split, Split | None]
    if reference == "digits":
        splits, classes = _digits(teacher)
    elif kind in _READERS:
        splits, classes = _READERS[kind](place, teacher)
    else:
        splits, classes = _from_function(kind, place, teacher), None
    train, test = splits
    if test is None:
        train, test = _split(train, TEST_SHARE, seed=0)  # the same for every run, and for `lana evaluate`
    train, validation = _split(train, VALIDATION_SHARE, seed)
    return Data(train=train, validation=validation, test=test, classes=classes)


def _split(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide in two, the second holding `share`; the same share of every class where labels are known.

    Raises:
        UserError: a part would be empty.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(split)) if split.labels is None or split.labels.ndim > 1 else split.labels
    second = np.zeros(len(split), bool)
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        second[positions[: round(share * len(positions))]] = True
    if not second.any():  # too few of each class for its share to be one
        second[rng.permutation(len(split))[: round(share * len(split))]] = True
    if not second.any() or second.all():
        raise UserError(f"{len(split)} examples are too few to set {share:.0%} of them apart. Give more data.")
    return split.part(np.flatnonzero(~second)), split.part(np.flatnonzero(second))


def from_arrays(inputs: np.ndarray | Tensor, labels: np.ndarray | Tensor, preprocessing: Preprocessing | None) -> Split:
    """A split that lies in memory; whole numbers as labels are classes.

    Raises:
        UserError: there is not one label for each input, or no input at all.
    """
    held, targets = torch.as_tensor(inputs), torch.as_tensor(labels)
    if len(held) == 0 or len(held) != len(targets):
        raise UserError(f"The data hold {len(held)} inputs and {len(targets)} labels. Give one label for each input.")
    if not targets.is_floating_point() and targets.shape[1:] == (1,):
        targets = targets.squeeze(1)
    return Split(
        read=lambda indices: (held[torch.from_numpy(indices)], targets[torch.from_numpy(indices)]),
        indices=np.arange(len(held)),
        labels=targets.numpy() if not targets.is_floating_point() and targets.ndim == 1 else None,
        preprocessing=preprocessing,
    )


def _need_images(teacher: Teacher, reference: str) -> Preprocessing:
    if teacher.preprocessing is None:
        raise UserError(
            f"{reference} holds images, but --input-shape says that the model takes something else. "
            "Leave --input-shape out and give --image-size, --mean and --std."
        )
    return teacher.preprocessing


def _digits(teacher: Teacher) -> tuple[tuple[Split, Split], tuple[str, ...]]:
    """scikit-learn's 1797 handwritten digits (8×8 grey), four fifths for training."""
    from sklearn.datasets import load_digits

    preprocessing = _need_images(teacher, "digits")
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    from PIL import Image

    images = torch.stack([to_pixels(Image.fromarray(image), preprocessing) for image in pixels])
    everything = from_arrays(images, torch.from_numpy(digits.target), preprocessing)
    return _split(everything, TEST_SHARE, seed=0), tuple(str(digit) for digit in range(10))


def to_pixels(image: Any, preprocessing: Preprocessing) -> Tensor:
    """A PIL image as uint8 (C, S, S): the shorter side scaled to S (bicubic where it shrinks), the middle cut out."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        image = Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("RGB" if preprocessing.channels == 3 else "L")
    size = preprocessing.image_size
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
        image = image.resize(scaled, Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.BILINEAR)
        left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _images(open_one: Sequence[Any], names: Sequence[str], labels: np.ndarray, preprocessing: Preprocessing) -> Split:
    """Encoded images (paths or bytes), decoded once and kept where they fit in memory, else at every use.

    Raises:
        UserError: images that cannot be read, by name and number.
    """
    from PIL import Image

    def decode(index: int) -> Tensor | str:
        source = open_one[index]
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return to_pixels(image, preprocessing)
        except Exception as error:
            return f"{names[index]} ({type(error).__name__}: {str(error)[:80]})"

    kept = len(names) * int(np.prod(preprocessing.input_shape)) <= MEMORY_BYTES
    # Where images are decoded at every use, a broken one shows late, when a run stands on the labels of all.
    mend = (
        "Remove or mend them" if kept else "Put others in their places: without them, a run that was begun is another"
    )

    def decode_all(indices: Sequence[int]) -> Tensor:
        with ThreadPoolExecutor(4) as pool:
            decoded = list(pool.map(decode, indices))
        broken = [result for result in decoded if isinstance(result, str)]
        if broken:
            raise UserError(
                f"{len(broken)} of {len(indices)} images cannot be read: {'; '.join(broken[:5])}"
                f"{' …' if len(broken) > 5 else ''}. {mend}."
            )
        return torch.stack([result for result in decoded if isinstance(result, Tensor)])

    targets = torch.from_numpy(labels)
    if kept:
        return from_arrays(decode_all(range(len(names))), targets, preprocessing)
    return Split(
        read=lambda indices: (decode_all(indices.tolist()), targets[torch.from_numpy(indices)]),
        indices=np.arange(len(names)),
        labels=labels,
        preprocessing=preprocessing,
    )


def _folder(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], tuple[str, ...]]:
    """A folder per class; PATH/train, perhaps with PATH/test (or PATH/val), or all in one."""
    root = data_folder(place)
    preprocessing = _need_images(teacher, f"folder:{place}")
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
    return _images(paths, [str(path) for path in paths], labels, preprocessing)


def _parquet(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], None]:
    """Image and label columns, as Hugging Face data sets store them; train.parquet and test.parquet, or one file."""
    root = Path(place).expanduser()
    preprocessing = _need_images(teacher, f"parquet:{place}")
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
    return _images(encoded, names, _classes_of(labels, f"{files[0]}: {label!r}"), preprocessing)


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


def _npz(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], None]:
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

    preprocessing = _need_images(teacher, f"npz:{place}")
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


def _hub(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], tuple[str, ...] | None]:
    """A data set of the Hugging Face hub with image and label columns."""
    datasets = require("datasets", extra="datasets")
    preprocessing = _need_images(teacher, f"hf:{place}")
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


def _from_function(path: str, name: str, teacher: Teacher) -> tuple[Split, Split | None]:
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


_READERS: dict[str, Callable[[str, Teacher], Any]] = {
    "folder": _folder,
    "parquet": _parquet,
    "npz": _npz,
    "hf": _hub,
}
