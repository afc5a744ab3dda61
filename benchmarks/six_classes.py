"""A user's first hour: MobileNetV1 of width 0.75 on photos of six classes, as a folder of files.

    python benchmarks/six_classes.py folder PARQUET... --out data/six-classes
    python benchmarks/six_classes.py train data/six-classes --out data/mobilenet.safetensors [--epochs 30]
    lana compress benchmarks/six_classes.py:mobilenet --weights data/mobilenet.safetensors \\
        --data folder:data/six-classes --budget 0.5x

`folder` writes 250 training and 50 test images of each of six classes from parquet files with the columns `image` and
`label`, read in the order given (Tiny-ImageNet's train and test: 64 pixels, read at 224). `train` trains the network
from nothing, at 128 pixels, where an epoch takes a third of the time, and in the last third of the epochs at 224.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as parquet
import torch
from PIL import Image
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional as F

from lana.data.loading import load_data
from lana.data.split import Data
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import load_task
from lana.models.teacher import load_teacher

WIDTH = 0.75
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
CLASSES, TRAIN, TEST = 6, 250, 50  # images of each class
NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SMALL, LARGE = 128, 224  # pixels


class MobileNetV1(nn.Module):
    """A plain stack of depthwise and pointwise convolutions (Howard et al. 2017), each with norm and activation."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.preprocessing = {"image_size": LARGE, **NORMALISATION}
        widths = [int(32 * WIDTH), *(int(width * WIDTH) for width, _ in BLOCKS)]
        layers = [*_convolution(3, widths[0], stride=2)]
        for (source, target), (_, stride) in zip(itertools.pairwise(widths), BLOCKS, strict=True):
            layers += _convolution(source, source, stride=stride, groups=source)
            layers += _convolution(source, target, size=1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


def _convolution(source: int, target: int, *, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(source, target, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(target), nn.ReLU()]


def mobilenet(classes: int = CLASSES) -> MobileNetV1:
    return MobileNetV1(classes)


@click.group()
def main() -> None:
    """The data and the network of a user's first hour."""


@main.command()
@click.argument("files", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def folder(files: tuple[Path, ...], out: Path) -> None:
    """Write OUT/train and OUT/test with images of the six classes of the lowest numbers in FILES."""
    written: dict[int, int] = {}
    for content, label in _rows(files):
        if label not in written and len(written) == CLASSES:
            continue
        number = written.get(label, 0)
        if number < TRAIN + TEST:
            place = out / ("train" if number < TRAIN else "test") / f"class-{label:03}" / f"{number:04}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(content)).convert("RGB").save(place)
            written[label] = number + 1
    few = {label: count for label, count in written.items() if count < TRAIN + TEST}
    if few or len(written) < CLASSES:
        raise click.ClickException(f"{len(written)} classes, too few images of {few}: expected {TRAIN + TEST} of each.")
    print(f"{CLASSES * TRAIN} training and {CLASSES * TEST} test images in {out}")


def _rows(files: Sequence[Path]) -> Iterator[tuple[bytes, int]]:
    for file in files:
        for batch in parquet.ParquetFile(file).iter_batches(1024, columns=["image", "label"]):
            for row in batch.to_pylist():
                image: Any = row["image"]
                yield image["bytes"] if isinstance(image, dict) else image, int(row["label"])


@main.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--epochs", default=30)
@click.option("--batch", default=32)
@click.option("--lr", default=2e-3)
@click.option("--threads", default=2)
def train(images: Path, out: Path, epochs: int, batch: int, lr: float, threads: int) -> None:
    """Train the network on the folder IMAGES and write its weights to OUT."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    module, data = mobilenet(), _data(images, SMALL)
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.05)
    steps = epochs * data.train.steps(batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for epoch in range(epochs):
        if epoch == epochs - (epochs + 2) // 3:
            data = _data(images, LARGE)
        module.train()
        for inputs, labels in data.train.epoch(batch, seed=epoch, augment=True):
            loss = F.cross_entropy(module(inputs), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        evaluation = evaluate_module(module.eval(), data.validation, load_task("classification"))
        print(f"epoch {epoch + 1}: validation {evaluation.metric:.2%}", flush=True)
    save_model(module, str(out))
    evaluation = evaluate_module(module, _data(images, LARGE).test, load_task("classification"))
    print(f"test {evaluation.metric:.2%} of {evaluation.examples} images; weights in {out}")


def _data(images: Path, size: int) -> Data:
    teacher = load_teacher(f"{Path(__file__)}:mobilenet", image_size=size, pretrained=False)
    return load_data(f"folder:{images}", teacher)


if __name__ == "__main__":
    main()
