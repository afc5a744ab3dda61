"""CUDA graphs: a GPU is faster with a small network than Python is with telling it what to do.

A training step of a network of fifty layers is some thousand kernels of a few microseconds each. Recorded once, they
are launched together.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lana.precision import computes_in_bf16


@contextlib.contextmanager
def recorded(module: nn.Module, example: Tensor, precision: str) -> Iterator[bool]:
    """While open, training passes of the module, forward and backward, are replayed; whether that could be had.

    Every training input must have the shape of `example`. In evaluation the module runs as ever. Not recorded are
    networks on the CPU, and those that wait for a result of their own in the middle, as a graph cannot.
    """
    if example.device.type != "cuda":
        yield False
        return
    module.train()
    before = copy.deepcopy(module.state_dict())  # recording runs it some times, which moves BatchNorm's statistics
    half = torch.autocast("cuda", torch.bfloat16, enabled=computes_in_bf16("cuda", precision), cache_enabled=False)
    could = False
    with warnings.catch_warnings():  # gradients were first gathered on the stream of the recording
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
        with contextlib.suppress(Exception), half:  # in whatever way recording fails, it trains without
            torch.cuda.make_graphed_callables(module, (example,), allow_unused_input=True)
            could = True
        module.load_state_dict(before)
        try:
            yield could
        finally:
            vars(module).pop("forward", None)  # where the recording stands
