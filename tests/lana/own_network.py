"""Make what a user would bring in DIR: a network in a file, its state dict, a folder of images."""

import sys
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits

NET = '''
"""A network of the user's own: a stem, eight residual blocks, a head."""
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.body(x) + x)


def build():
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, stride=2, padding=1), nn.ReLU(), *(Block(24) for _ in range(8)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )
'''


def make(folder: Path) -> None:
    (folder / "net.py").write_text(NET)
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / "images" / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype("uint8")).save(place / f"{index}.png")

    from lana.data.loading import load_data
    from lana.models.teacher import load_teacher

    torch.manual_seed(0)
    teacher = load_teacher(f"{folder / 'net.py'}:build", image_size=16, mean=(0.3,), std=(0.35,))
    data = load_data(f"folder:{folder / 'images'}", teacher)
    optimizer = torch.optim.Adam(teacher.module.parameters(), lr=3e-3)
    teacher.module.train()
    for epoch in range(5):
        for inputs, labels in data.train.epoch(64, seed=epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(teacher.module(inputs), labels).backward()
            optimizer.step()
    torch.save(teacher.module.state_dict(), folder / "net.pt")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
