"""A workaround for a kernel that writes beyond its memory.

The kernel computes the weights' gradient of a strided 1×1 convolution in channels-last order. With fewer input channels
than a vector holds (8, with AVX-512 16), oneDNN in torch 2.13 writes past its workspace (its issue 6035). The training
then crashes, hangs, or continues with wrong gradients. Images often lie in that order, and a stem has few channels. The
workaround subsamples the pixels first, which is the same convolution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn

VECTOR = 16  # numbers of 32 bits in the widest vector


@contextlib.contextmanager
def strides_as_slices(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While open, the convolutions in `modules` that the kernel is wrong for take their pixels before they compute."""
    convolutions = [
        part for module in modules for part in module.modules() if isinstance(part, nn.Conv2d) and _touched(part)
    ]
    for convolution in convolutions:
        convolution._conv_forward = MethodType(_sliced, convolution)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for convolution in convolutions:
            vars(convolution).pop("_conv_forward", None)


def _touched(convolution: nn.Conv2d) -> bool:
    return (
        type(convolution)._conv_forward is nn.Conv2d._conv_forward
        and convolution.kernel_size == (1, 1)
        and convolution.stride != (1, 1)
        and convolution.padding in ((0, 0), "valid")
        and convolution.in_channels // convolution.groups < VECTOR
    )


def _sliced(self: nn.Conv2d, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    down, right = self.stride
    return F.conv2d(inputs[..., ::down, ::right], weight, bias, groups=self.groups)
