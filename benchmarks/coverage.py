"""Does it work on any network? One network of every family of timm, and those of torchvision: found, swapped, exported.

    python benchmarks/coverage.py --out benchmarks/coverage.csv [--only GLOB]

For each, with random weights: layers that hold at least 70% of the multiply-adds; the teacher reassembled, bit-exact; a
random selection of operations that are neither the teacher's nor skip; its ONNX file with parity; loaded again. Of each
module of `timm.models` the smallest variant is taken, by the size that its name tells, then by name.
"""

from __future__ import annotations

import csv
import fnmatch
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

STEPS = ("layers", "reassembled", "selection", "exported", "loaded")
SIZES = (
    "femto",
    "atto",
    "pico",
    "nano",
    "xxs",
    "xxtiny",
    "xs",
    "xtiny",
    "tiny",
    "mini",
    "_s",
    "small",
    "b0",
    "18",
    "lite",
)
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t",
    "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2", "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip
TIMEOUT_S = 600
COVERED = 0.7
PARITY = 1e-3


def families() -> dict[str, str]:
    """Module of timm.models → its smallest variant."""
    from lana.teacher import import_torchvision

    import_torchvision()
    import timm

    variants: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        variants[timm.models.model_entrypoint(name).__module__.rpartition(".")[2]].append(name)

    def size(name: str) -> tuple[int, int, str]:
        rank = next((i for i, word in enumerate(SIZES) if word in name), len(SIZES))
        return rank, len(name), name

    return {module: min(names, key=size) for module, names in sorted(variants.items())}


def examine(reference: str) -> dict[str, Any]:
    """All five steps for one network; the first that fails ends it, with its reason."""
    import torch

    from lana.export import export_onnx, flat, onnx_parity
    from lana.layers import find_layers
    from lana.operations import offered
    from lana.student import assemble, load_student, save_student
    from lana.teacher import load_teacher

    torch.manual_seed(0)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"network": reference, "layers": "", "covered": "", "operations": ""}
    step = "layers"
    try:
        teacher = load_teacher(reference, pretrained=False)
        module, example = teacher.module, teacher.example()
        scan = find_layers(module, (example,))
        covered = sum(layer.macs for layer in scan.layers) / max(scan.total_macs, 1)
        found |= {"layers": len(scan.layers), "covered": f"{covered:.3f}"}
        if covered < COVERED:
            worst = max(scan.passed_over, key=lambda p: p.macs, default=None)
            raise RuntimeError(f"{covered:.0%} covered; largest passed over: {worst}")
        step = "reassembled"
        with torch.no_grad():
            expected = flat(module(example))
            again = flat(assemble(module, scan.layers, {layer.name: "teacher" for layer in scan.layers})(example))
        if not all(torch.equal(a, b) for a, b in zip(expected, again, strict=True)):
            raise RuntimeError("the reassembled teacher gives other outputs")
        step = "selection"
        drawn = random.Random(0)
        selection: dict[str, str] = {}
        for layer in drawn.sample(scan.layers, len(scan.layers)):
            names = [o.name for o in offered(layer, module.get_submodule(layer.name), "default")]
            trained = [name for name in names if name not in ("teacher", "identity")]
            if trained and len(selection) < max(3, len(scan.layers) // 3):
                selection[layer.name] = drawn.choice(trained)
        found["operations"] = len(selection)
        if len(selection) < min(3, len(scan.layers)):
            raise RuntimeError(f"only {len(selection)} layers have an operation that is neither the teacher's nor skip")
        student = assemble(module, scan.layers, selection)
        with torch.no_grad():
            outputs = flat(student(example))
        if [o.shape for o in outputs] != [e.shape for e in expected]:
            raise RuntimeError("the student's outputs have other shapes")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            step = "exported"
            parity = onnx_parity(student, export_onnx(student, example, folder / "model.onnx"), example)
            if not parity < PARITY:
                raise RuntimeError(f"the ONNX file's outputs differ by {parity:.1e}")
            step = "loaded"
            save_student(student, folder / "student", teacher, scan.layers, selection)
            with torch.no_grad():
                loaded = flat(load_student(folder / "student")(example))
            if not all(torch.equal(a, b) for a, b in zip(outputs, loaded, strict=True)):
                raise RuntimeError("the loaded student gives other outputs")
        return {**found, "complete": "yes", "failed": "", "reason": ""}
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return {**found, "complete": "no", "failed": step, "reason": reason}


def examine_apart(reference: str) -> dict[str, Any]:
    """In a process of its own, which may crash or hang."""
    command = [sys.executable, __file__, "--one", reference]
    nothing = {"network": reference, "layers": "", "covered": "", "operations": "", "complete": "no"}
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        return json.loads(result.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {**nothing, "failed": "time", "reason": f"not done within {TIMEOUT_S} s"}
    except (IndexError, ValueError):
        return {**nothing, "failed": "process", "reason": f"it ended with {result.returncode}: {result.stderr[-150:]}"}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="The table as CSV; networks that it holds are kept.")
@click.option("--only", default="*", help="Glob of references such as timm:vit*.")
@click.option("--one", help="Examine one network in this process and print what was found.")
def main(out: Path | None, only: str, one: str | None) -> None:
    if one:
        print(json.dumps(examine(one)))
        return
    references = [f"timm:{name}" for name in families().values()] + [f"torchvision:{name}" for name in TORCHVISION]
    rows: list[dict[str, Any]] = []
    if out and out.is_file():
        rows = list(csv.DictReader(out.read_text().splitlines()))
    known = {row["network"] for row in rows}
    for reference in references:
        if fnmatch.fnmatchcase(reference, only) and reference not in known:
            rows.append(examine_apart(reference))
            print(*rows[-1].values(), flush=True)
            if out:
                with out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, rows[0].keys())
                    writer.writeheader()
                    writer.writerows(rows)
    for source in ("timm", "torchvision"):
        those = [row for row in rows if row["network"].startswith(source)]
        done = sum(row["complete"] == "yes" for row in those)
        print(f"{source}: {done} of {len(those)} networks complete all of {', '.join(STEPS)}")


if __name__ == "__main__":
    main()
