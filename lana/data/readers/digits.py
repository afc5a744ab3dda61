"""scikit-learn's handwritten digits: the embedded example."""

from __future__ import annotations

import numpy as np
import torch

from lana.data.images import require_images, to_pixels
from lana.data.split import TEST_SHARE, Split, from_arrays, split_in_two
from lana.models.teacher import Teacher


def read_digits(teacher: Teacher) -> tuple[tuple[Split, Split], tuple[str, ...]]:
    """Read scikit-learn's 1797 handwritten digits (8×8 grey), four fifths for training."""
    from PIL import Image
    from sklearn.datasets import load_digits

    preprocessing = require_images(teacher, "digits")
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = torch.stack([to_pixels(Image.fromarray(image), preprocessing) for image in pixels])
    everything = from_arrays(images, torch.from_numpy(digits.target), preprocessing)
    return split_in_two(everything, TEST_SHARE, seed=0), tuple(str(digit) for digit in range(10))
