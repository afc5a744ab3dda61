"""Tasks side by side in processes that share what is loaded: the decoded images above all."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from typing import Any


def side_by_side(work: Callable[[Any], None], tasks: Sequence[Any], processes: int) -> bool:
    """Do all tasks, begun in order, several at once; whether all went well: one that fails does not stop the others.

    Before, this process is to have one thread and no GPU in use: neither comes along.
    """

    def take() -> None:
        failed = False
        while (task := queue.get()) is not None:
            try:
                work(task[0])
            except Exception:
                traceback.print_exc()
                failed = True
        raise SystemExit(failed)

    context = multiprocessing.get_context("fork")
    queue: multiprocessing.SimpleQueue[tuple[Any] | None] = context.SimpleQueue()
    workers = [context.Process(target=take) for _ in range(min(processes, len(tasks)))]
    for worker in workers:
        worker.start()
    for task in tasks:
        queue.put((task,))
    for _ in workers:
        queue.put(None)
    for worker in workers:
        worker.join()
    return not any(worker.exitcode for worker in workers)
