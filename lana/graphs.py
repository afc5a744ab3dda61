"""CUDA graphs: a GPU is faster with a small network than Python is with telling it what to do.

A training step of a network of fifty layers is some thousand kernels of a few microseconds each, and those of its
optimiser. Recorded once, they are launched together.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Step = Callable[..., Tensor]
Untouched = Callable[[], contextlib.AbstractContextManager[None]]
WARM_UP = 3  # times; what allocates or chooses an algorithm at first does so before the recording (torch.cuda.graph)


def recorded(
    step: Step, batch: tuple[Any, ...], untouched: Callable[[], contextlib.AbstractContextManager[None]]
) -> Step:
    """A training step (passes, optimiser and all) as one launch for every batch of the form of this one.

    `step(*batch)` gives a loss and changes in place what it trains; tensors and numbers in the batch may be others
    each time. While recording it is run some times, inside `untouched()`, which is to put back what it changed. Run
    as ever are batches of another form, those on the CPU, and steps that wait for a result of their own in the
    middle, as a graph cannot.
    """
    if not any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in tree_flatten(batch)[0]):
        return step
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # in whatever way it fails, the step runs as ever
        # Of the runs before the recording, and of gradients that were first gathered on another stream.
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
        return _Recording(step, batch, untouched)
    return step


class _Recording:
    def __init__(self, step: Step, batch: tuple[Any, ...], untouched: Untouched) -> None:
        leaves, self.form = tree_flatten(batch)
        device = next(leaf.device for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda)
        self.step, self.static = step, [_static(leaf, device) for leaf in leaves]
        arguments = tree_unflatten(self.static, self.form)
        with untouched(), torch.random.fork_rng([device]), torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    step(*arguments)
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = step(*arguments)

    def __call__(self, *batch: Any) -> Tensor:
        leaves, form = tree_flatten(batch)
        if form != self.form or any(map(_differs, self.static, leaves)):
            return self.step(*batch)
        for ours, given in zip(self.static, leaves, strict=True):
            if isinstance(given, Tensor):
                ours.copy_(given)
            elif isinstance(given, float):
                ours.fill_(given)
        self.graph.replay()
        return self.loss.clone()


def _static(leaf: Any, device: torch.device) -> Any:
    """What the recording reads: a tensor that stays where it is, for a number as well."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    return torch.tensor(leaf, device=device) if isinstance(leaf, float) else leaf


def _differs(ours: Any, given: Any) -> bool:
    """Whether what the recording reads cannot hold what is given now."""
    if isinstance(given, Tensor):
        return not (isinstance(ours, Tensor) and (ours.shape, ours.dtype) == (given.shape, given.dtype))
    return not isinstance(given, float) and ours is not given and ours != given
