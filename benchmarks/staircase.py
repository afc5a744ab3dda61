"""Latency against channel width, one by one: where the steps are that a smooth estimate does not see.

    python benchmarks/staircase.py --runtime onnxruntime-cpu --out hardware_tables/NAME-widths.csv \\
        --plot benchmarks/plots/widths.png

Four blocks as in common networks, their inner width varied; the plot shows every table given by --out, and further ones
by --beside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from lana.common.progress import Progress, reporting
from lana.config.recipe import Recipe
from lana.exporters.computation import to_computation
from profilers import Computation, LatencyTable, create_runtime, profile

STEPS = 33  # widths of a block, down from its own


def bottleneck(width: int) -> nn.Module:
    """ResNet-50, third stage: 1×1 to the width, 3×3, 1×1 back to 512, at 28×28."""
    return nn.Sequential(
        *(nn.Conv2d(512, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
        nn.Conv2d(width, 512, 1),
    )


def inverted(width: int) -> nn.Module:
    """MobileNetV2, fourth stage: 1×1 to the width, 3×3 depthwise, 1×1 back to 64, at 14×14."""
    return nn.Sequential(
        *(nn.Conv2d(64, width, 1), nn.ReLU6(), nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU6()),
        nn.Conv2d(width, 64, 1),
    )


def convolution(width: int) -> nn.Module:
    """A single 3×3 convolution of as many channels in as out, at 14×14."""
    return nn.Conv2d(width, width, 3, padding=1)


def perceptron(width: int) -> nn.Module:
    """ViT-S, the perceptron of a block: 384 to the width and back, over 197 tokens."""
    return nn.Sequential(nn.Linear(384, width), nn.GELU(), nn.Linear(width, 384))


BLOCKS: dict[str, tuple[Callable[[int], nn.Module], int, Callable[[int], tuple[int, ...]]]] = {
    "bottleneck": (bottleneck, 128, lambda width: (512, 28, 28)),
    "inverted": (inverted, 384, lambda width: (64, 14, 14)),
    "convolution": (convolution, 256, lambda width: (width, 14, 14)),
    "perceptron": (perceptron, 1536, lambda width: (197, 384)),
}


def computations(folder: Path, batch: int, format: str) -> list[Computation]:
    """Every block at every width from its own downwards."""
    files = []
    with reporting(), Progress("Exporting", len(BLOCKS) * STEPS) as progress:
        for name, (build, widest, shape_of) in BLOCKS.items():
            for width in range(widest - STEPS + 1, widest + 1):
                torch.manual_seed(0)
                example: Tensor = torch.randn(batch, *shape_of(width))
                shape = " ".join(map(str, shape_of(width)))
                labels = {"operation": f"{name}_{width}", "family": name, "input_shape": shape, "layer": name}
                title = f"{name}_{width} ({shape})"
                computation = to_computation(build(width).eval(), example, folder, name=title, format=format)
                files.append(replace(computation, labels=labels))
                progress.update(len(files))
    return files


def plot(path: Path, tables: Sequence[LatencyTable]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for axis, name in zip(axes.flat, BLOCKS, strict=True):
        for table in tables:
            rows = table.rows[table.rows["family"] == name]
            widths = rows["operation"].str.rpartition("_")[2].astype(int)
            ordered = rows.assign(width=widths).sort_values("width")
            settings = table.header.settings
            label = f"{table.header.runtime}, {settings.threads} thread{'s' * (settings.threads > 1)}"
            axis.plot(ordered["width"], ordered["latency_ms"], marker=".", label=label)
        axis.set(title=name, xlabel="width", ylabel="milliseconds")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize="small")
    figure.suptitle(f"{tables[0].header.device}", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--runtime", default="onnxruntime-cpu")
@click.option("--threads", default=1)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The table; measured where it lacks rows.")
@click.option("--beside", type=click.Path(path_type=Path), multiple=True, help="Further tables in the plot.")
@click.option("--plot", "picture", type=click.Path(path_type=Path))
def main(runtime: str, threads: int, out: Path, beside: tuple[Path, ...], picture: Path | None) -> None:
    settings = Recipe(runtime=runtime, threads=threads).profiling.runtime_settings
    format = create_runtime(runtime, settings).format
    with tempfile.TemporaryDirectory() as folder:
        table = profile(
            computations(Path(folder), settings.batch, format), runtime=runtime, settings=settings, table=out
        )
    for name in BLOCKS:
        rows = table.rows[table.rows["family"] == name]
        widths = rows["operation"].str.rpartition("_")[2].astype(int)
        latency = rows.set_index(widths)["latency_ms"].sort_index()
        steps = latency.diff().dropna() / latency.median()
        narrower = (latency.shift(-1) < 0.97 * latency).sum()
        print(
            f"{name}: {latency.iloc[0]:.4f} ms at {latency.index[0]} to {latency.iloc[-1]:.4f} at {latency.index[-1]}; "
            f"largest step {steps.max():+.1%} at {steps.idxmax()}; {narrower} widths slower than the next by 3%"
        )
    if picture:
        plot(picture, [table, *map(LatencyTable.read, beside)])


if __name__ == "__main__":
    main()
