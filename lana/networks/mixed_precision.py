"""Mixed precision in training: bfloat16 where the device computes in it, 32 bits elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def gains_from_bf16(device: str) -> bool:
    """True if the device has bfloat16 arithmetic: training is then nearly twice as fast, at the range of 32 bits."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    supported = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(is_supported() for is_supported in supported if is_supported is not None)


@dataclass(frozen=True)
class Compute:
    """Where networks compute, and in which float type: fp32, bf16, or auto (bf16 where the device gains from it).

    >>> with Compute("cpu", "bf16").autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """

    device: str = "cpu"
    precision: str = "fp32"

    @property
    def in_bf16(self) -> bool:
        """True if `autocast` halves the precision."""
        return self.precision == "bf16" or (self.precision == "auto" and gains_from_bf16(self.device))

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context to compute a training loss in; weights, optimizer and BatchNorm statistics stay at 32 bits."""
        if not self.in_bf16:
            # Even a disabled outer context caches the halved weights of inner ones while it is open: later training
            # steps would compute with the weights of the first.
            return contextlib.nullcontext()
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16)

    @contextlib.contextmanager
    def channels_last(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """While open, where the precision is halved: convolutions' weights in the order that bfloat16 kernels want.

        Else every convolution reorders its input and output. Values stay, and so do the parameters themselves.
        """
        laid_out = list(modules) if self.in_bf16 else []
        for module in laid_out:
            _lay_out(module, torch.channels_last)
        try:
            yield
        finally:
            for module in laid_out:
                _lay_out(module, torch.contiguous_format)


CPU_FP32 = Compute()


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


def in_full(output: Any) -> Any:
    """Outputs at 32 bits: a softmax of half precision is too coarse to learn from."""
    return tree_map(
        lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, output
    )
