"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lana.common.importing import require
from lana.data.images import DECODING_WORKERS, EncodedImages, require_images
from lana.data.readers.columns import class_numbers, image_and_label, test_part
from lana.data.split import Split
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher


def read_hub(place: str, teacher: Teacher) -> tuple[tuple[Split, Split | None], tuple[str, ...] | None]:
    """Read a data set of the Hugging Face hub with image and label columns."""
    datasets = require("datasets", extra="datasets")
    preprocessing = require_images(teacher, f"hf:{place}")
    try:
        content = datasets.load_dataset(place)
    except Exception as error:  # the library downloads and runs the code of others
        raise UserError(f"hf:{place} could not be loaded ({type(error).__name__}: {str(error)[:200]}).") from error
    if "train" not in content:
        raise UserError(f"hf:{place} has the splits {', '.join(content)}; expected 'train'.")
    features = content["train"].features
    image, label = image_and_label(features, f"hf:{place}")
    classes = getattr(features[label], "names", None)
    parts = {
        name: _hub_split(content[name].cast_column(image, datasets.Image(decode=False)), image, label, preprocessing)
        for name in ("train", "test", "validation")
        if name in content
    }
    return (parts.pop("train"), test_part(parts, f"hf:{place}")), tuple(classes) if classes else None


class HubImages:
    """A part of a data set with encoded images, decoded whenever it is read; picklable, for workers."""

    def __init__(self, part: Any, image: str, label: str, preprocessing: Preprocessing) -> None:
        self.part, self.image, self.label, self.preprocessing = part, image, label, preprocessing

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = self.part[indices.tolist()]
        encoded = EncodedImages(
            [cell["bytes"] or Path(cell["path"]) for cell in rows[self.image]],
            [f"row {index}" for index in indices],
            np.array(rows[self.label]),
            self.preprocessing,
        )
        return encoded.read(np.arange(len(indices)))


def _hub_split(part: Any, image: str, label: str, preprocessing: Preprocessing) -> Split:
    return Split(
        read=HubImages(part, image, label, preprocessing).read,
        indices=np.arange(len(part)),
        labels=class_numbers(list(part[label]), f"The column {label!r}"),
        preprocessing=preprocessing,
        workers=DECODING_WORKERS,
    )
