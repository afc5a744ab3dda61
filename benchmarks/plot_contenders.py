"""Draw accuracy against measured latency from what family.py and peers.py wrote.

python benchmarks/plot_contenders.py runs/family/family.json runs/peers/peers.json --out benchmarks/plots/peers.png
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKERS = "osD^vP*Xh<>"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option(
    "--least", type=float, default=0.0, help="Where the axis begins, in %; points below are listed in the title."
)
def main(files: tuple[Path, ...], out: Path, least: float) -> None:
    rows = {row["name"]: row for file in files for row in json.loads(file.read_text())["contenders"] if row["seeds"]}
    kinds = sorted({row["kind"] for row in rows.values()}, key=lambda kind: (kind != "lana", kind))
    figure, axes = plt.subplots(figsize=(7, 4.5), dpi=130)
    for index, kind in enumerate(kinds):
        those = [row for row in rows.values() if row["kind"] == kind and 100 * row["accuracy"] >= least]
        points = sorted((row["ratio"], 100 * row["accuracy"]) for row in those) or [(math.nan, math.nan)]
        line: dict[str, Any] = (
            {"linewidth": 2.0, "markersize": 8} if kind == "lana" else {"linewidth": 0.8, "alpha": 0.8}
        )
        axes.plot(*zip(*points, strict=True), marker=MARKERS[index % len(MARKERS)], label=kind, **line)
    below = [row for row in rows.values() if 100 * row["accuracy"] < least]
    text = ", ".join(f"{row['kind']} {row['accuracy']:.1%} at {row['ratio']:.2f}x" for row in below)
    if text:
        axes.set_title(f"below: {text}", fontsize=7)
    axes.set_xlabel("latency, share of the teacher's, measured side by side")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    print(f"{out}: {len(rows)} networks of {len(kinds)} kinds")


if __name__ == "__main__":
    main()
