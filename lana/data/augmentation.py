"""Augmentation of a fine-tuning batch: shifts of small images, crops of larger ones, mixup and cutmix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lana.errors import UserError

BOX_FIELDS = 6  # of a box among labels (`lana.data.boxes`)
LARGE_SIDE = 96  # pixels: a shift moves objects in larger images too little, the field crops them
CROP_AREA = (0.35, 1.0)  # shares of the image; the usual 0.08 is for hundreds of epochs from random weights


class Mixed(NamedTuple):
    """Labels of a mixed batch: `share` of every example is its own, the rest is its partner's."""

    own: Tensor
    partner: Tensor
    share: float


def resolve(augmentation: str, input_shape: tuple[int, ...]) -> str:
    """The augmentation by name; `auto` crops large images and shifts small ones.

    >>> resolve("auto", (3, 32, 32)), resolve("auto", (3, 224, 224)), resolve("none", (3, 224, 224))
    ('shift', 'crop', 'none')
    """
    if augmentation != "auto":
        return augmentation
    return "crop" if len(input_shape) == 3 and min(input_shape[1:]) >= LARGE_SIDE else "shift"


def free_of_place(labels: Tensor) -> bool:
    """True for labels that hold where the image moves: classes, and boxes (floats), which no loss reads.

    Maps of labels would have to move along.
    """
    return labels.ndim == 1 or (labels.shape[2:] == (BOX_FIELDS,) and labels.is_floating_point())


def shift_and_flip(inputs: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Shift small images by up to an eighth of their side, and mirror half of them where `flip`.

    Callers do not mirror grey images: most are text or scans, where left and right matter.
    """
    batch, _, height, width = inputs.shape
    pad = max(1, height // 8)
    padded = F.pad(inputs, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, batch, 1, 1), generator=generator).to(inputs.device)
    rows = (torch.arange(height, device=inputs.device).view(1, -1, 1) + top).expand(-1, -1, width)
    columns = (torch.arange(width, device=inputs.device).view(1, 1, -1) + left).expand(-1, height, -1)
    if flip:
        mirrored = torch.rand(batch, 1, 1, generator=generator).to(inputs.device) < 0.5
        columns = torch.where(mirrored, columns.flip(2), columns)
    which = torch.arange(batch, device=inputs.device).view(-1, 1, 1)
    return padded[which, :, rows, columns].permute(0, 3, 1, 2).contiguous()


def random_resized_crop(inputs: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """A random part of each image (N, C, H, W), scaled back to H × W, half of them mirrored where `flip`."""
    batch = len(inputs)
    area = torch.empty(batch).uniform_(*CROP_AREA, generator=generator)
    aspect = torch.empty(batch).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = (torch.rand(2, batch, generator=generator) * 2 - 1) * torch.stack([1 - width, 1 - height])
    mirror = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(batch)
    zero = torch.zeros(batch)
    rows = [torch.stack([width * mirror, zero, x], 1), torch.stack([zero, height, y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid.to(inputs), padding_mode="reflection", align_corners=False)


Region = tuple[slice, slice]  # rows and columns


def mix(
    inputs: Tensor, alpha: float, generator: torch.Generator, *, cut: bool
) -> tuple[Tensor, Tensor, float, Region | None]:
    """Blend every example with a partner, or paste a rectangle of the partner into it (`cut`).

    Returns the inputs, the partners, the share of the own example and the rectangle.
    """
    first, second = torch._standard_gamma(torch.full((2,), alpha), generator=generator).tolist()
    share = first / (first + second)
    partners = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    if not cut:
        return share * inputs + (1 - share) * inputs[partners], partners, share, None
    height, width = inputs.shape[-2:]
    tall, wide = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
    top = int(torch.randint(0, height - tall + 1, (1,), generator=generator))
    left = int(torch.randint(0, width - wide + 1, (1,), generator=generator))
    region = slice(top, top + tall), slice(left, left + wide)
    return _pasted(inputs, partners, region), partners, 1 - tall * wide / (height * width), region


def _pasted(maps: Tensor, partners: Tensor, region: Region) -> Tensor:
    pasted = maps.clone()
    pasted[..., *region] = maps[partners][..., *region]
    return pasted


def augmented(
    batches: Iterator[tuple[Tensor, Tensor]], *, crop: bool, mixup: float, cutmix: float, seed: int
) -> Iterator[tuple[Tensor, Tensor | Mixed]]:
    """Crop and mix the batches; with both mixup and cutmix each batch draws one of them."""
    generator = torch.Generator().manual_seed(seed)
    for inputs, labels in batches:
        if crop and free_of_place(labels):
            inputs = random_resized_crop(inputs, generator, flip=inputs.shape[1] == 3)
        if not (mixup or cutmix):
            yield inputs, labels
            continue
        if cutmix and inputs.ndim < 3:
            raise UserError(f"--cutmix pastes rectangles of images; these inputs have the shape {tuple(inputs.shape)}.")
        cut = cutmix > 0 and (mixup == 0 or bool(torch.rand(1, generator=generator) < 0.5))
        inputs, partners, share, region = mix(inputs, cutmix if cut else mixup, generator, cut=cut)
        if region is not None and labels.ndim > 1 and labels.shape[-2:] == inputs.shape[-2:]:
            yield inputs, _pasted(labels, partners, region)  # a label for each pixel
            continue
        yield inputs, Mixed(labels, labels[partners], share)
