"""A module that a network calls several times, on inputs of several shapes (a head on every level of a pyramid)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AtShapes(nn.Module):
    """All calls of a module as one: its inputs lie one after the other in rows (N, total), and so do its outputs."""

    def __init__(self, module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.module, self.shapes = module, tuple(shapes)

    @property
    def input_shape(self) -> tuple[int]:
        return (sum(map(math.prod, self.shapes)),)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split([math.prod(shape) for shape in self.shapes], 1)
        outputs = [self.module(part.unflatten(1, shape)) for part, shape in zip(parts, self.shapes, strict=True)]
        return torch.cat([output.flatten(1) for output in outputs], 1)
