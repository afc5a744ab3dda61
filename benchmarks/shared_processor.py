"""Do ratios hold where another process wants the same processor?

    python benchmarks/shared_processor.py resnet_cifar.py:resnet56 resnet_cifar.py:resnet20 … --image-size 32

The first network is the reference. It is measured in turns alone on the processor and together with a process that
never rests, both pinned to it. Weights do not matter and are not read. The last lines are medians over the turns.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import click
from neighbour import beside

from lana.exporters.computation import to_computation
from lana.models.teacher import load_teacher
from lana.runs.baseline import runtime_format
from profilers import RuntimeSettings, compare

BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
import numpy as np
a = np.random.default_rng(0).standard_normal((600, 600))
while True:
    a @ a
"""


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--runtime", default="onnxruntime-cpu")
@click.option("--image-size", type=int)
@click.option("--processor", type=int, default=0)
@click.option("--turns", type=int, default=3)
def main(models: tuple[str, ...], runtime: str, image_size: int | None, processor: int, turns: int) -> None:
    if len(models) < 2:
        raise click.UsageError(f"One network, {models[0]}: expected a reference and at least one to compare with it.")
    settings = RuntimeSettings(affinity=(processor,))
    format = runtime_format(runtime, settings)
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, model in enumerate(models):
            loaded = load_teacher(model, image_size=image_size, pretrained=False)
            example, name = loaded.example(1), model.rpartition(":")[2]
            files.append(
                to_computation(loaded.module, example, Path(folder), name=name, format=format, stem=f"n{index}")
            )
        for _ in range(turns):
            for kind, neighbour in (("alone", contextlib.nullcontext()), ("shared", beside(BUSY, str(processor)))):
                with neighbour:
                    compared = compare(files[0], files[1:], runtime=runtime, settings=settings)
                figures[files[0].name, kind].append(statistics.median(compared[0].reference_ms))
                for file, one in zip(files[1:], compared, strict=True):
                    figures[file.name, kind].append(one.ratio)
                print(kind, *(f"{file.name} {figures[file.name, kind][-1]:.3f}" for file in files), flush=True)
    for file in files:
        alone, shared = (statistics.median(figures[file.name, kind]) for kind in ("alone", "shared"))
        unit = " ms" if file is files[0] else "x"
        print(f"{file.name}: {alone:.3f}{unit} alone, {shared:.3f}{unit} shared ({shared / alone - 1:+.1%})")


if __name__ == "__main__":
    main()
