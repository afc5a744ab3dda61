"""Images a second of a fine-tuning step: precision, layout, batch, compiled, recorded. One thread, no teacher.

python benchmarks/tuning_speed.py PATH/resnet_cifar.py:resnet20 --shape 3,32,32 --compile
python benchmarks/tuning_speed.py PATH/resnet_cifar.py:resnet56 --device cuda --batch 128
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from torch import Tensor, nn

from lana.evaluation.task import Classification
from lana.models.teacher import load_teacher
from lana.networks.mixed_precision import Compute
from lana.training.cuda_graphs import recorded

STEPS = 12
FIRST = 3  # steps that are counted apart: they compile, and fill caches


def images_a_second(module: nn.Module, inputs: Tensor, precision: str, how: str) -> str:
    last = "channels last" in how
    module.to(inputs.device).to(memory_format=torch.channels_last if last else torch.contiguous_format).train()  # type: ignore[call-overload]
    forward: Callable[[Tensor], Any] = torch.compile(module, dynamic=False) if "compiled" in how else module
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True, capturable=inputs.is_cuda)
    expected = module(inputs).float().detach()

    def step(inputs: Tensor, expected: Tensor) -> Tensor:
        with Compute(inputs.device.type, precision).autocast():
            output = forward(inputs)
        loss = Classification().distance(output.float(), expected).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    seconds = []
    taken = recorded(step, (inputs, expected), contextlib.nullcontext) if "recorded" in how else step
    if "recorded" in how and taken is step:
        return "could not be recorded"
    for _ in range(STEPS + FIRST):
        start_s = time.perf_counter()
        taken(inputs, expected).item()
        seconds.append(time.perf_counter() - start_s)
    median_s = sorted(seconds[FIRST:])[STEPS // 2]
    return f"{len(inputs) / median_s:.0f} images/s (the first {FIRST} steps {sum(seconds[:FIRST]):.1f} s)"


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--shape", default="3,32,32", show_default=True)
@click.option("--batch", "batches", type=int, multiple=True, default=(64, 128), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--compile", "fuse", is_flag=True, help="Compiled as well.")
def main(models: tuple[str, ...], shape: str, batches: tuple[int, ...], device: str, fuse: bool) -> None:
    torch.set_num_threads(1)
    sides = [int(side) for side in shape.split(",")]
    ways = [("fp32", ""), ("bf16", ""), ("bf16", "channels last")]
    ways += [("bf16", "channels last, compiled")] if fuse else []
    ways += [("bf16", "channels last, recorded")] if device != "cpu" else []
    for model, batch, (precision, how) in itertools.product(models, batches, ways):
        module = load_teacher(model, input_shape=tuple(sides), pretrained=False).module
        found = images_a_second(module, torch.randn(batch, *sides, device=device), precision, how)
        print(f"{model.rpartition(':')[2]}, batch {batch}, {precision} {how}: {found}", flush=True)


if __name__ == "__main__":
    main()
