"""torchvision's one-stage detectors without what filters their boxes: images in, raw outputs of the heads out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

HEADS = ("SSD", "RetinaNet")


def is_one_stage(module: nn.Module) -> bool:
    """True for a detector of torchvision that is a backbone and one head, with anchors."""
    return type(module).__name__ in HEADS and type(module).__module__.startswith("torchvision.models.detection.")


class RawDetector(nn.Module):
    """A backbone and a head: class logits and box offsets of all anchors, in evaluation and in training mode."""

    backbone: nn.Module
    head: nn.Module
    anchor_generator: nn.Module

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head
        self.anchor_generator = detector.anchor_generator

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))

    def anchors(self, size: tuple[int, int]) -> Tensor:
        """The anchors (K, 4) of inputs of (height, width), in pixels."""
        from torchvision.models.detection.image_list import ImageList

        images = torch.zeros(1, 3, *size)
        with torch.no_grad():
            features = self.backbone(images)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        return self.anchor_generator(ImageList(images, [size]), maps)[0]


def raw_detector(detector: Any) -> tuple[RawDetector, Mapping[str, Any]]:
    """The network and the preprocessing that its own transform does."""
    transform = detector.transform
    fixed = transform.fixed_size  # (width, height)
    width, height = fixed or (transform.min_size[-1],) * 2
    size = {"image_size": height, **({"image_width": width} if width != height else {})}
    fit = "stretch" if fixed else "letterbox"
    return RawDetector(detector), {
        **size, "mean": tuple(transform.image_mean), "std": tuple(transform.image_std), "fit": fit, "fill": 0
    }  # fmt: skip
