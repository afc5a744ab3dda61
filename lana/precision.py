"""Mixed precision in training: bfloat16 where the device computes in it, 32 bits elsewhere."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def gains_from_bf16(device: str) -> bool:
    """Whether the device has bfloat16 arithmetic: training is then nearly twice as fast, at the range of 32 bits."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    supported = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(is_supported() for is_supported in supported if is_supported is not None)


def computes_in_bf16(device: str, precision: str) -> bool:
    """Whether `autocast` halves the precision there."""
    return precision == "bf16" or (precision == "auto" and gains_from_bf16(device))


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context to compute a training loss in; weights, optimiser and BatchNorm statistics stay at 32 bits.

    >>> with autocast("cpu", "bf16"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    half = computes_in_bf16(device, precision)
    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=half)


def in_full(output: Any) -> Any:
    """Outputs at 32 bits: a softmax of half precision is too coarse to learn from."""
    return tree_map(
        lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, output
    )
