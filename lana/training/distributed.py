"""The processes that train a network: one, or a group of several with a GPU each (Hugging Face Accelerate).

A group takes the same steps as one process: every process computes its share of each batch, and the gradients are
averaged. The main process decides for all (a metric, a checkpoint). Only BatchNorm differs: its statistics in training
are those of a process's share.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

Value = TypeVar("Value")
TIMEOUT = datetime.timedelta(hours=6)  # for the others, while the main process evaluates


def launched_rank() -> int | None:
    """The number of this process in a group that `torchrun` or `accelerate launch` started; None alone."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


class SingleProcess:
    """A process that trains by itself, with all of every batch.

    Attributes:
        index, count: the number of this process, and how many there are.
        device: where it trains.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.index, self.count, self.device = 0, 1, device

    @property
    def is_main(self) -> bool:
        """True for the process that decides, writes and reports."""
        return self.index == 0

    def seed(self, seed: int) -> int:
        """The seed of this process's own random choices; a single process keeps the given one."""
        return seed * self.count + self.index

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to compute a loss with."""
        return module

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients, averaged over all processes."""
        loss.backward()

    def broadcast(self, decide: Callable[[], Value]) -> Value:
        """The main process's decision; the others do not compute it."""
        return decide()

    def mean(self, value: float) -> float:
        """The mean over all processes."""
        return value


class DistributedGroup(SingleProcess):
    """A process of a group that a launcher started (`torchrun`, `accelerate launch`)."""

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        # A student may hold parameters that its output does not depend on.
        handlers: list[Any] = [
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ]
        cpu = device == "cpu"
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=handlers)
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = "cpu" if cpu else str(self.accelerator.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        return self.accelerator.prepare_model(module)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def broadcast(self, decide: Callable[[], Value]) -> Value:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([decide() if self.is_main else None])[0]

    def mean(self, value: float) -> float:
        from accelerate.utils import gather_object

        return sum(gather_object([value])) / self.count

    def leave(self) -> None:
        """Leave a group that a launcher of the user's started: from here on this process works alone."""
        self.accelerator.end_training()
        os.environ["WORLD_SIZE"] = "1"

    def end(self) -> NoReturn:
        """Leave the group and end this process, successfully.

        Python's own end is left out: threads that distributed training leaves behind may abort it
        (https://github.com/pytorch/pytorch/pull/179291).
        """
        self.accelerator.end_training()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
