"""Shared by all exporters: their error, silence, and outputs in a tuple."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lana.errors import LanaError
from lana.networks.structure import flat_tensors


class ExportFailed(LanaError):
    """A module could not be written in the format that a runtime takes."""


INNER = "module"  # the name of a network in `_InATuple`


class _InATuple(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat_tensors(self.module(x)))


def in_a_tuple(module: nn.Module, output: Any) -> nn.Module:
    """The module, its outputs in a tuple where they come in a record of the network's own, which no exporter knows."""
    return module if isinstance(output, (Tensor, tuple, list, dict)) else _InATuple(module).eval()


def short_error(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Exporters warn at length about what does not matter to the user; attention is kept in plain operators."""
    logger = logging.getLogger("torch.onnx")
    level, fast, log = logger.level, torch.backends.mha.get_fastpath_enabled(), torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None  # torch 2.9 switches it on at every export: the whole graph at a failure
    logger.setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that no exporter knows
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._jit_onnx_log = log


def named_outputs(output: Any) -> dict[str, Tensor]:
    """The tensors of an output by their names in a file: a mapping's keys, else `output`, `output_1` …

    >>> list(named_outputs({"boxes": torch.zeros(1), "scores": torch.zeros(1)})), list(named_outputs(torch.zeros(1)))
    (['boxes', 'scores'], ['output'])
    """
    tensors = list(flat_tensors(output))
    if isinstance(output, Mapping) and len(tensors) == len(output) > 1:
        return dict(zip(map(str, output), tensors, strict=True))
    return {f"output_{i}" if i else "output": tensor for i, tensor in enumerate(tensors)}
