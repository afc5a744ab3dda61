"""Who trains: one process, or several that train the same network together, one a GPU (Hugging Face Accelerate).

Together they take the same steps as one: every process computes its share of each batch, the gradients are averaged,
and what is decided on (a metric, a checkpoint) is decided by the first. Only BatchNorm differs: its statistics in
training are those of a process's share.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

Value = TypeVar("Value")
PATIENCE = datetime.timedelta(hours=6)  # of the others, while the first evaluates


class Alone:
    """One process: it has all of every batch and decides for itself.

    Attributes:
        index, count: which of how many processes this is.
        device: where it trains.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.index, self.count, self.device = 0, 1, device

    @property
    def first(self) -> bool:
        """Whether this process decides, writes and tells."""
        return self.index == 0

    def seed(self, seed: int) -> int:
        """The seed of this process's own random choices; alone it is the given one."""
        return seed * self.count + self.index

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to compute a loss with."""
        return module

    def backward(self, loss: Tensor) -> None:
        """The gradients, averaged over all."""
        loss.backward()

    def agreed(self, decide: Callable[[], Value]) -> Value:
        """What the first process decides; the others do not compute it."""
        return decide()

    def mean(self, value: float) -> float:
        """The mean over all."""
        return value


class Together(Alone):
    """One of the processes that a launcher started (`torchrun`, `accelerate launch`)."""

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        # A student may hold parameters that its output does not depend on.
        handlers: list[Any] = [
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ]
        cpu = device == "cpu"
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=handlers)
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = "cpu" if cpu else str(self.accelerator.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        return self.accelerator.prepare_model(module)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def agreed(self, decide: Callable[[], Value]) -> Value:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([decide() if self.first else None])[0]

    def mean(self, value: float) -> float:
        from accelerate.utils import gather_object

        return sum(gather_object([value])) / self.count

    def end(self) -> NoReturn:
        """Part from the others and end this process, successfully.

        Python's own end is left out: threads that distributed training leaves behind may abort it
        (https://github.com/pytorch/pytorch/pull/179291).
        """
        self.accelerator.end_training()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
