"""Parquet files, as the Hugging Face hub stores data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lana.data.images import encoded_images, require_images
from lana.data.readers.columns import class_numbers, image_and_label, test_part
from lana.data.split import Split
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher


def read_parquet(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], None]:
    """Read the image and label columns of train.parquet and test.parquet, or of one file."""
    preprocessing = require_images(teacher, f"parquet:{place}")
    trained, others = parquet_files(place)
    tests = {name: _parquet_split(files, preprocessing) for name, files in others.items()}
    return (_parquet_split(trained, preprocessing), test_part(tests, f"parquet:{place}")), None


def parquet_files(place: str) -> tuple[list[Path], dict[str, list[Path]]]:
    """The files of the training part, and by name those of each part that may be the test.

    Raises:
        UserError: there is no training part.
    """
    root = Path(place).expanduser()
    if root.is_dir():
        found = {name: sorted(filter(Path.is_file, root.glob(f"{name}*.parquet"))) for name in ("train", "test", "val")}
        trained, others = found.pop("train"), {name: files for name, files in found.items() if files}
    else:
        trained, others = [root] if root.is_file() else [], {}
    if not trained:
        raise UserError(
            f"parquet:{place}: expected a parquet file, or a folder with train.parquet and test.parquet, at {root}."
        )
    return trained, others


def _parquet_split(files: list[Path], preprocessing: Preprocessing) -> Split:
    import pyarrow as pa
    from pyarrow import parquet

    encoded: list[Any] = []
    labels: list[Any] = []
    names: list[str] = []
    for file in files:
        try:
            image, label = image_and_label(parquet.read_schema(file).names, str(file))
            table = parquet.read_table(file, columns=[image, label])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a readable parquet file ({str(error)[:200]}).") from error
        cells = table.column(image).to_pylist()
        encoded += [cell["bytes"] if isinstance(cell, Mapping) else cell for cell in cells]
        labels += table.column(label).to_pylist()
        names += [f"{file.name} row {row}" for row in range(len(cells))]
    return encoded_images(encoded, names, class_numbers(labels, f"{files[0]}: {label!r}"), preprocessing)
