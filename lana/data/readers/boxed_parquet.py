"""Parquet files of images with boxes, or of images alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lana.data.boxes import Annotation, BoxedImage, boxed_split
from lana.data.images import require_images
from lana.data.readers.columns import IMAGES
from lana.data.readers.parquet import parquet_files
from lana.data.split import Split
from lana.errors import UserError
from lana.models.teacher import Teacher

HELD_OUT = ("test", "val")  # how the names begin in a column `split`


def read_boxed_parquet(place: str, teacher: Teacher, classes: int) -> tuple[tuple[Split, Split | None], None]:
    """Read `image`, and where there are `boxes` (x1 y1 x2 y2 in shares of the image), `labels` and `crowd`.

    The parts are train.parquet and test.parquet (or val), or what the column `split` of one file says.
    """
    preprocessing = require_images(teacher, f"parquet:{place}")
    trained, held_out = parquet_files(place)
    train = _rows(trained)
    test = [row for files in list(held_out.values())[:1] for row in _rows(files)]
    if not test:
        test = [row for row in train if row[0].startswith(HELD_OUT)]
        train = [row for row in train if not row[0].startswith(HELD_OUT)] if len(test) < len(train) else train
    splits = [
        boxed_split([image for _, image in rows], preprocessing, classes, f"parquet:{place}")
        if rows or required
        else None
        for rows, required in ((train, True), (test, False))
    ]
    return (splits[0], splits[1]), None  # type: ignore[return-value]


def _rows(files: list[Path]) -> list[tuple[str, BoxedImage]]:
    """The part and the image of each row."""
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[tuple[str, BoxedImage]] = []
    for file in files:
        try:
            columns = parquet.read_schema(file).names
            image = next((name for name in IMAGES if name in columns), None)
            if image is None:
                raise UserError(f"{file} has the columns {', '.join(columns)}; expected 'image'.")
            if "boxes" in columns and "labels" not in columns:
                raise UserError(f"{file} has 'boxes' and no 'labels'. Expected the class of each box there.")
            wanted = [name for name in (image, "boxes", "labels", "crowd", "split") if name in columns]
            content = parquet.read_table(file, columns=wanted).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a readable parquet file ({str(error)[:200]}).") from error
        for number, row in enumerate(content):
            rows.append((str(row.get("split", "")), _image(row, row[image], f"{file.name} row {number}")))
    return rows


def _image(row: Mapping[str, Any], cell: Any, name: str) -> BoxedImage:
    source = cell["bytes"] if isinstance(cell, Mapping) else cell
    if row.get("boxes") is None:
        return BoxedImage(source=source, name=name, annotation=None)
    try:
        annotation = Annotation.of(row["boxes"], row["labels"], row.get("crowd"))
        alike = len(annotation.boxes) == len(annotation.classes) == len(annotation.crowd)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: its boxes or labels are no numbers ({str(error)[:100]}).") from error
    if not alike:
        raise UserError(
            f"{name} has {len(annotation.boxes)} boxes and {len(annotation.classes)} labels. Expected one for each."
        )
    return BoxedImage(source=source, name=name, annotation=annotation)
