"""Images a second of a fine-tuning step: precision, layout of tensors, batch, compiled or not. One thread, no teacher.

python benchmarks/tuning_speed.py PATH/resnet_cifar.py:resnet20 --shape 3,32,32 --compile
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from torch import nn

from lana.precision import autocast
from lana.task import Classification
from lana.teacher import load_teacher

STEPS = 12


def images_a_second(module: nn.Module, shape: list[int], batch: int, precision: str, *, last: bool, fuse: bool) -> str:
    layout: dict[str, Any] = {"memory_format": torch.channels_last if last else torch.contiguous_format}
    module.to(**layout).train()
    forward: Callable[[torch.Tensor], Any] = torch.compile(module, dynamic=False) if fuse else module
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)
    inputs = torch.randn(batch, *shape)
    expected = module(inputs).float().detach()
    seconds = []
    for _ in range(STEPS + 2):
        start_s = time.perf_counter()
        with autocast("cpu", precision):
            output = forward(inputs)
        loss = Classification().distance(output.float(), expected).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start_s)
    median_s = sorted(seconds[2:])[STEPS // 2]
    return f"{batch / median_s:.0f} images/s (the first two steps {sum(seconds[:2]):.0f} s)"


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--shape", default="3,32,32", show_default=True)
@click.option("--compile", "fuse", is_flag=True, help="Compiled as well.")
def main(models: tuple[str, ...], shape: str, fuse: bool) -> None:
    torch.set_num_threads(1)
    sides = [int(side) for side in shape.split(",")]
    for model, batch in itertools.product(models, (64, 128)):
        for precision, last, fused in [
            ("fp32", False, False),
            ("bf16", False, False),
            ("bf16", True, False),
            *([("bf16", True, True)] if fuse else []),
        ]:
            module = load_teacher(model, input_shape=tuple(sides), pretrained=False).module
            found = images_a_second(module, sides, batch, precision, last=last, fuse=fused)
            how = f"{precision}{', channels last' if last else ''}{', compiled' if fused else ''}"
            print(f"{model.rpartition(':')[2]}, batch {batch}, {how}: {found}", flush=True)


if __name__ == "__main__":
    main()
