"""The speed of distillation: operations × images a second, in one run, against two plainer ways.

    python benchmarks/distill.py RUN [--steps 4] [--rounds 3] [--threads 2]

RUN is a run whose operations are profiled (`lana compress … --out RUN`). The same operations, the same steps:

- one at a time, the teacher run each time as far as the layer, at 32 bits;
- the paper's scheme: one operation a layer in each pass of the teacher, at 32 bits;
- `lana`'s: all that fit in memory in each pass of the teacher, in bfloat16 where the device computes in it.

Rounds of the three alternate, and the result is the ratio of their medians. Goals: 8 times the first, twice the second.
`--batched` prints whether operations of one structure are faster when they are trained as one grouped network.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import nn

from lana.models.student import build_operation
from lana.networks.mixed_precision import Compute
from lana.pool.block_training import BlockTraining, Distillation, train
from lana.pool.candidates import pairs, read_candidates
from lana.runs.context import RunContext, prepare
from lana.runs.run import Run

BATCH = 64
SAMPLE = 12  # operations that the first way is timed on


def blocks_of(context: RunContext, count: int | None = None) -> list[BlockTraining]:
    chosen = pairs(read_candidates(context.run.pool / "candidates.csv"), trainable_only=True)
    if count:
        chosen = chosen[:: max(1, len(chosen) // count)][:count]
    return [
        BlockTraining(
            layer=layer, operation=name, module=build_operation(layer, context.teacher.module, name), start_error=1.0
        )
        for layer, name in chosen
    ]


def one_a_layer(blocks: Sequence[BlockTraining]) -> list[list[BlockTraining]]:
    """The paper's passes: the first operation of each layer, the second …"""
    passes: dict[int, list[BlockTraining]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for block in blocks:
        passes[seen[block.layer.name]].append(block)
        seen[block.layer.name] += 1
    return list(passes.values())


def seconds(context: RunContext, groups: Sequence[Sequence[BlockTraining]], steps: int, precision: str) -> float:
    """Wall-clock time of an operation's step, on average over all operations of the groups."""
    split = context.data.train.subset(BATCH * steps, 0)
    settings = Distillation(batch_size=BATCH, compute=Compute("cpu", precision))
    start_s = time.perf_counter()
    for group in groups:
        train(context.teacher.module, group, split, steps, settings)
    return (time.perf_counter() - start_s) / (steps * sum(map(len, groups)))


def batched(threads: int) -> None:
    """Eight convolution pairs one after another, and as one network of eight groups."""
    torch.set_num_threads(threads)
    for channels, size in ((16, 32), (32, 16), (64, 8)):

        def pair(groups: int, channels: int = channels) -> nn.Sequential:
            wide = channels * groups
            return nn.Sequential(
                nn.Conv2d(wide, wide, 3, 1, 1, groups=groups, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.Conv2d(wide, wide, 3, 1, 1, groups=groups, bias=False),
                nn.BatchNorm2d(wide),
            )

        inputs = torch.randn(BATCH, channels, size, size)
        single, many = pair(1), pair(8)
        times_of: dict[str, list[float]] = defaultdict(list)
        for _ in range(6):
            for name, module, given, times in (
                ("one by one", single, inputs, 8),
                ("batched", many, inputs.repeat(1, 8, 1, 1), 1),
            ):
                start_s = time.perf_counter()
                for _ in range(times):
                    with torch.autocast("cpu", torch.bfloat16):
                        F.mse_loss(module(given), given.bfloat16()).backward()
                times_of[name].append(time.perf_counter() - start_s)
        ratio = statistics.median(times_of["batched"][1:]) / statistics.median(times_of["one by one"][1:])
        print(f"{channels} channels, {size}×{size}: batched takes {ratio:.2f} times as long as one by one")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--steps", default=4, help="Training steps of each operation in a round.")
@click.option("--rounds", default=3)
@click.option("--threads", default=2)
@click.option("--batched", "also_batched", is_flag=True, help="Also time grouped networks.")
def main(run: Path, steps: int, rounds: int, threads: int, also_batched: bool) -> None:
    if also_batched:
        batched(threads)
    torch.set_num_threads(threads)
    with Run.open(run) as opened:
        context = prepare(opened, opened.recipe())
        blocks, sample = blocks_of(context), blocks_of(context, SAMPLE)
        ways = {
            "one at a time": ([[block] for block in sample], "fp32"),
            "one a layer (the paper)": (one_a_layer(blocks), "fp32"),
            "all at once, 32 bits": ([blocks], "fp32"),
            "all at once (lana)": ([blocks], "auto"),
        }
        times_of: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for name, (groups, precision) in ways.items():
                times_of[name].append(seconds(context, groups, steps, precision))
    ours = statistics.median(times_of["all at once (lana)"])
    print(f"{len(blocks)} operations, batches of {BATCH}, {threads} threads")
    for name, times in times_of.items():
        took = statistics.median(times)
        print(f"{name:26} {BATCH / took:8.0f} operations × images a second; lana is {took / ours:5.2f} times faster")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    setting = Distillation.group_bytes / 2**30
    print(f"peak memory of the process {peak:.2f} GiB; the setting for what is in training {setting:.0f} GiB")


if __name__ == "__main__":
    main()
