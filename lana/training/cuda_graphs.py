"""CUDA graphs: a GPU is faster with a small network than Python is with telling it what to do.

A training step of a network of fifty layers is some thousand kernels of a few microseconds each, and those of its
optimiser. Recorded once, they are launched together.
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
Untouched = Callable[[], contextlib.AbstractContextManager[None]]
WARM_UP = 3  # times; what allocates or chooses an algorithm at first does so before the recording (torch.cuda.graph)


def recorded(step: Step, batch: tuple[Any, ...], untouched: Untouched) -> Step:
    """A training step (passes, optimiser and all) as one launch for every batch of the form of this one.

    `step(*batch)` gives a loss and changes in place what it trains; tensors and numbers in the batch may be others
    each time. While recording it is run some times, inside `untouched()`, which is to put back what it changed. Run
    as ever are batches of another form, those on the CPU, and steps that wait for a result of their own in the
    middle, as a graph cannot. What else the step reads (a counter in Python, say) stays as it was then.
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
        with untouched(), torch.random.fork_rng([device]), torch.cuda.device(device), _nothing_collected():
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    step(*arguments)
            here.wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.stream(here), torch.cuda.graph(self.graph):
                    self.loss = step(*arguments)
            except Exception:  # whatever the step raised: the generator has to forget it
                _forget_recording(device)
                raise

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


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """An older recording that the garbage collector took away meanwhile would end this one."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _forget_recording(device: torch.device) -> None:
    """After a recording that failed, the generator of random numbers believes that it still goes on (until torch 2.12),
    and the next dropout would fail."""
    generator, fresh = torch.cuda.default_generators[device.index], torch.Generator(device)
    fresh.set_state(generator.get_state())
    generator.graphsafe_set_state(fresh)


def _static(leaf: Any, device: torch.device) -> Any:
    """What the recording reads: a tensor that stays where it is, for a number as well."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    return torch.tensor(leaf, device=device) if isinstance(leaf, float) else leaf


def _differs(ours: Any, given: Any) -> bool:
    """Whether what the recording reads cannot hold what is given now."""
    if isinstance(given, Tensor):
        return not (isinstance(ours, Tensor) and (ours.shape, ours.dtype) == (given.shape, given.dtype))
    if isinstance(given, float):
        return not isinstance(ours, Tensor)
    return ours is not given and not (isinstance(given, int | str) and ours == given)
