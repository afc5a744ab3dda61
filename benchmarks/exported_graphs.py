"""Are exported graphs folded, do quantizers take them, and is a folded file as fast as one that is not?

    python benchmarks/exported_graphs.py graphs --out benchmarks/results/exported_graphs.csv [REFERENCE …]
    python benchmarks/exported_graphs.py latencies --out benchmarks/results/folded_latencies.csv

`graphs` exports each network of `coverage.py` with random weights. It counts nodes that depend on no input, and runs
ONNX Runtime's `quant_pre_process` without skipping a step. `latencies` takes one operation a family and measures its
folded file paired with the unfolded one, in fresh processes.
"""

from __future__ import annotations

import contextlib
import csv
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click
import onnx
import torch
from coverage import FEWER_BLOCKS, TORCHVISION, VIDEOS, families, smaller_input
from onnxruntime.quantization import quant_pre_process

from lana.config.recipe import Recipe
from lana.exporters.computation import to_computation
from lana.exporters.folding import foldable
from lana.exporters.onnx_export import export_onnx
from lana.models.student import own_module
from lana.models.teacher import Teacher, load_teacher
from lana.networks.layers import Layer, find_layers
from lana.operations.families import FAMILIES, Operation
from lana.operations.presets import offered
from profilers import Computation, compare

NETWORKS = ("timm:tf_efficientnet_b0", "timm:resnet50", "timm:vit_small_patch16_224")  # "same" padding, maps, tokens
EQUAL = 0.02


@click.group()
def main() -> None:
    """Exported graphs: folded or not."""


@main.command()
@click.argument("references", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path, resolve_path=True), required=True)
def graphs(references: tuple[str, ...], out: Path) -> None:
    """Count what is left to fold in REFERENCES, by default in every network of the coverage list that OUT lacks."""
    every = [*(f"timm:{name}" for name in families().values()), *(f"torchvision:{n}" for n in TORCHVISION), *VIDEOS]
    kept = list(csv.DictReader(out.read_text().splitlines())) if out.is_file() else []
    rows: dict[str, dict[str, Any]] = {row["network"]: row for row in kept if row["pre_processed"] == "yes"}
    for reference in references or [name for name in every if name not in rows]:
        rows[reference] = _graph(reference)
        print(*rows[reference].values(), flush=True)
        _write(out, [rows[name] for name in every if name in rows])
    exported = [row for row in rows.values() if row["exported"] == "yes"]
    taken = sum(row["pre_processed"] == "yes" for row in exported)
    left = [int(row["foldable"]) for row in exported]
    print(
        f"{sum(left)} foldable nodes in {sum(map(bool, left))} of {len(exported)} graphs; "
        f"quant_pre_process takes {taken} of {len(rows)}"
    )


def _graph(reference: str) -> dict[str, Any]:
    torch.manual_seed(0)
    row: dict[str, Any] = {"network": reference, "exported": "", "nodes": 0, "foldable": 0, "pre_processed": ""}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # what is refused is left where it runs
        path = Path(folder) / "model.onnx"
        try:
            teacher = load_teacher(
                reference,
                pretrained=False,
                model_args=FEWER_BLOCKS.get(reference),
                image_size=smaller_input(reference),
                input_shape=VIDEOS.get(reference),
            )
            export_onnx(teacher.module, teacher.example(), path)
        except Exception as error:
            return {**row, "exported": _short(error)}
        model = onnx.load(str(path))
        row |= {"exported": "yes", "nodes": len(model.graph.node), "foldable": len(foldable(model))}
        try:
            quant_pre_process(str(path), str(Path(folder) / "prepared.onnx"))
        except Exception as error:
            return {**row, "pre_processed": _short(error)}
    return {**row, "pre_processed": "yes"}


@main.command()
@click.option("--runtime", default="onnxruntime-cpu")
@click.option("--processes", default=5)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def latencies(runtime: str, processes: int, out: Path) -> None:
    """Measure one operation a family, folded over unfolded."""
    settings = Recipe(runtime=runtime).profiling.runtime_settings
    rows: list[dict[str, Any]] = []
    for operation, layer, teacher in _one_a_family():
        torch.manual_seed(0)
        module = operation.build(layer, own_module(teacher.module, layer)).eval()
        example = torch.randn(1, *layer.input_shape)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folded = to_computation(module, example, folder, name=operation.name, stem="folded")
            with mock.patch("lana.exporters.onnx_export.readable", lambda content, *_, **__: content):
                plain = to_computation(module, example, folder, name=operation.name, stem="plain")
            found = compare(plain, [folded, plain], runtime=runtime, settings=settings, processes=processes)
            rows.append(
                {
                    "runtime": runtime,
                    "family": operation.family,
                    "operation": operation.name,
                    "shape": " ".join(map(str, layer.input_shape)),
                    "nodes": _nodes(plain),
                    "nodes_folded": _nodes(folded),
                    "ms": f"{statistics.median(found[0].reference_ms):.4g}",
                    "ratio": f"{found[0].ratio:.4f}",
                    "ratio_of_itself": f"{found[1].ratio:.4f}",
                }
            )
        print(*rows[-1].values(), flush=True)
        _write(out, rows)
    apart = [abs(float(row["ratio"]) - 1) for row in rows]
    within = sum(distance <= EQUAL for distance in apart)
    print(
        f"{within} of {len(rows)} within {EQUAL:.0%}; median {statistics.median(apart):.2%}, largest {max(apart):.2%}"
    )


def _one_a_family() -> Iterator[tuple[Operation, Layer, Teacher]]:
    """One operation of each family, at the middle one of the first network's layers that take it."""
    missing = list(FAMILIES)
    for reference in NETWORKS:
        teacher = load_teacher(reference, pretrained=False)
        scan = find_layers(teacher.module, (teacher.example(),), max_span=2)
        for family in list(missing):
            places = [
                (operations[len(operations) // 2], layer, teacher)
                for layer in (*scan.layers, *scan.spans)
                if (operations := _of_family(teacher, layer, family))
            ]
            if places:
                missing.remove(family)
                yield places[len(places) // 2]


def _of_family(teacher: Teacher, layer: Layer, family: str) -> list[Operation]:
    return [one for one in offered(layer, own_module(teacher.module, layer), family) if one.family == family]


def _nodes(computation: Computation) -> int:
    return len(onnx.load(str(computation.file)).graph.node)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
