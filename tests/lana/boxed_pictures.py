"""Pictures of bright squares with their boxes, and a small detector that finds them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lana.models.preprocessing import Preprocessing
from lana.models.teacher import Teacher

NETWORK = '''
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.one(x))))


class Detector(nn.Module):
    """An anchor-free head without distributions: four distances and a logit for each of two classes."""

    preprocessing = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "fit": "stretch"}

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.boxes, self.classes = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return torch.cat((self.boxes(x), self.classes(x)), 1)


def build():
    torch.manual_seed(0)
    return Detector()
'''


def boxed_teacher(module=None, **fitting):
    preprocessing = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, **fitting)
    shape = preprocessing.input_shape
    return Teacher(module=module, reference="test", weights=None, input_shape=shape, preprocessing=preprocessing)


def scenes(count, seed=0, size=(48, 40)):
    """(picture, boxes in pixels, classes): a square of the one class is bright, of the other dark."""
    random, made = np.random.default_rng(seed), []
    for index in range(count):
        pixels = np.full((size[1], size[0], 3), 128, np.uint8)
        boxes, kinds = [], []
        for _ in range(0 if index % 9 == 8 else 1):
            side = int(random.integers(12, 25))
            x, y = int(random.integers(0, size[0] - side)), int(random.integers(0, size[1] - side))
            kind = int(random.integers(2))
            pixels[y : y + side, x : x + side] = (20, 235)[kind]
            boxes.append((x, y, x + side, y + side))
            kinds.append(kind)
        made.append((Image.fromarray(pixels), boxes, kinds))
    return made


def write_yolo(root, made, part=""):
    images, labels = root / "images" / part, root / "labels" / part
    images.mkdir(parents=True), labels.mkdir(parents=True)
    for number, (picture, boxes, kinds) in enumerate(made):
        picture.save(images / f"{number:03}.png")
        width, height = picture.size
        lines = [
            f"{kind} {(a + c) / 2 / width} {(b + d) / 2 / height} {(c - a) / width} {(d - b) / height}"
            for (a, b, c, d), kind in zip(boxes, kinds, strict=True)
        ]
        (labels / f"{number:03}.txt").write_text("\n".join(lines) + "\n")


def write_coco(root, made, part="train", ids=(3, 7)):
    (root / part).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"kind {i}"} for i in ids]}
    for number, (picture, boxes, kinds) in enumerate(made):
        picture.save(root / part / f"{number:03}.png")
        width, height = picture.size
        content["images"].append({"id": 10 + number, "file_name": f"{number:03}.png", "width": width, "height": height})
        for (a, b, c, d), kind in zip(boxes, kinds, strict=True):
            content["annotations"].append(
                {"id": len(content["annotations"]), "image_id": 10 + number, "category_id": ids[kind],
                 "bbox": [a, b, c - a, d - b], "iscrowd": 0}
            )  # fmt: skip
    (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def write_parquet(path, made, *, labelled=True):
    import io

    rows = []
    for picture, boxes, kinds in made:
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        sides = np.tile(picture.size, 2)
        row = {"image": stream.getvalue()}
        if labelled:
            row |= {"boxes": [(np.array(box) / sides).tolist() for box in boxes], "labels": kinds}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path)
