"""Small pictures in folders, and a network that takes them."""

import numpy as np
import torch
from PIL import Image

from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher

PREPROCESSING = Preprocessing(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def picture_teacher():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    return Teacher(module=module, reference="test", weights=None, input_shape=(3, 8, 8), preprocessing=PREPROCESSING)


def picture(level):
    return Image.fromarray(np.full((12, 10, 3), level, np.uint8))


def fill(root, classes=("cat", "dog", "eel"), count=10):
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(60 * index + number).save(root / name / f"{number}.png")
