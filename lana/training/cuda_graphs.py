"""CUDA graphs: a GPU computes a small network faster than Python launches its kernels.

A training step of a network of fifty layers launches about a thousand kernels of a few microseconds each, and those of
its optimizer. A step that is recorded once launches them together.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Step = Callable[..., Tensor]
Preserved = Callable[[], contextlib.AbstractContextManager[None]]
WARM_UP_STEPS = 3  # before the recording, for what allocates or chooses an algorithm at first (torch.cuda.graph)


def recorded(step: Step, batch: tuple[Any, ...], preserved: Preserved) -> Step:
    """A training step (passes, optimizer and all) as one launch for every batch of the form of this one.

    `step(*batch)` returns a loss and changes in place what it trains; tensors and numbers in the batch may differ each
    time. The recording runs it some times inside `preserved()`, which restores what it changed. Batches of another
    form and on the CPU run without a recording, and so do steps that wait for a result of their own. Everything else
    that the step reads (e.g. a counter in Python) keeps its value of the recording.
    """
    if not any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in tree_flatten(batch)[0]):
        return step
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # however it fails, the plain step serves
        # The warm-up runs, and gradients that were first gathered on another stream, cause these.
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
        return _Recording(step, batch, preserved)
    return step


class _Recording:
    def __init__(self, step: Step, batch: tuple[Any, ...], preserved: Preserved) -> None:
        leaves, self.form = tree_flatten(batch)
        device = next(leaf.device for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda)
        self.step, self.static = step, [_static(leaf, device) for leaf in leaves]
        arguments = tree_unflatten(self.static, self.form)
        with preserved(), torch.random.fork_rng([device]), torch.cuda.device(device), _nothing_collected():
            current, warming_up = torch.cuda.current_stream(), torch.cuda.Stream()
            warming_up.wait_stream(current)
            with torch.cuda.stream(warming_up):
                for _ in range(WARM_UP_STEPS):
                    step(*arguments)
            current.wait_stream(warming_up)
            self.graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.stream(current), torch.cuda.graph(self.graph):
                    self.loss = step(*arguments)
            except Exception:  # whatever the step raised: the generator has to forget it
                _forget_recording(device)
                raise

    def __call__(self, *batch: Any) -> Tensor:
        leaves, form = tree_flatten(batch)
        if form != self.form or any(map(_differs, self.static, leaves)):
            return self.step(*batch)
        for static, value in zip(self.static, leaves, strict=True):
            if isinstance(value, Tensor):
                static.copy_(value)
            elif isinstance(value, float):
                static.fill_(value)
        self.graph.replay()
        return self.loss.clone()


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keep the garbage collector off: it would end this recording by taking away an older one."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _forget_recording(device: torch.device) -> None:
    """Renew the generator's state: until torch 2.12 a failed recording leaves it recording, and dropout would fail."""
    generator, fresh = torch.cuda.default_generators[device.index], torch.Generator(device)
    fresh.set_state(generator.get_state())
    generator.graphsafe_set_state(fresh)


def _static(leaf: Any, device: torch.device) -> Any:
    """The tensor that the recording reads, for a number as well."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    return torch.tensor(leaf, device=device) if isinstance(leaf, float) else leaf


def _differs(static: Any, value: Any) -> bool:
    """True where the recorded input cannot hold this value."""
    if isinstance(value, Tensor):
        return not (isinstance(static, Tensor) and (static.shape, static.dtype) == (value.shape, value.dtype))
    if isinstance(value, float):
        return not isinstance(static, Tensor)
    return static is not value and not (isinstance(value, int | str) and static == value)
