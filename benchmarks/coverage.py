"""Does it work on any network? One network of every family of timm, and those of torchvision: found, swapped, exported.

    python benchmarks/coverage.py --out benchmarks/results/coverage.csv [--again] [--transformers] [REFERENCE …]

Each network has random weights. Its layers hold at least 70% of the multiply-adds, and the reassembled teacher is
bit-exact. A random selection takes operations that are neither the teacher's nor skip; its ONNX file must reach parity
and load again. The smallest variant of each module of `timm.models` is taken, by input size, by the size in its name,
then by name.
"""

from __future__ import annotations

import csv
import multiprocessing
import random
import re
import resource
import signal
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import onnxruntime  # noqa: F401 - imported before the forks
import torch
from transformers_networks import SHAPES

from lana.common.importing import import_torchvision
from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_parity
from lana.models.student import assemble, own_module
from lana.models.student_files import load_student, save_student
from lana.models.teacher import load_teacher
from lana.networks.layers import find_layers
from lana.networks.structure import flat_tensors
from lana.operations.presets import offered

COLUMNS = ("network", "layers", "covered", "operations", "complete", "failed", "reason", "seconds")
STEPS = ("layers", "reassembled", "selection", "exported", "loaded")
SIZES = (
    "femto", "atto", "pico", "nano", "xxs", "xxtiny", "xs", "xtiny", "tiny", "mini", "t0", "002", "b0", "s", "small",
    "18", "lite",
)  # fmt: skip
# Families whose smallest is large are built with fewer blocks, all of one kind.
FEWER_BLOCKS = {
    "timm:beit_base_patch16_224": "depth=4",
    "timm:deepseek_vit_412m": "depth=3",
    "timm:gemma4_vit_167m": "depth=3",
    "timm:naflexvit_base_patch16_gap": "depth=3",
    "timm:qwen3_vit_88m": "depth=3",
    "timm:samvit_base_patch16_224": "depth=4",
}
SMALLER_INPUT = 224  # in place of larger ones: patches of 14 and 16 divide it
LARGEST_INPUT = 256  # pixels a side, where the network takes any size
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t",
    "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2", "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip
TRANSFORMERS = {f"benchmarks/transformers_networks.py:{name}": shape for name, shape in SHAPES.items()}
VIDEOS = {  # small inputs, where a network takes any
    "torchvision:mc3_18": (3, 8, 56, 56),
    "torchvision:r2plus1d_18": (3, 8, 56, 56),
    "torchvision:r3d_18": (3, 8, 56, 56),
    "torchvision:s3d": (3, 14, 224, 224),
    "torchvision:swin3d_t": (3, 8, 56, 56),
    "torchvision:mvit_v1_b": (3, 16, 224, 224),
    "torchvision:mvit_v2_s": (3, 16, 224, 224),
}
LIMIT_S = 600  # of processor time: what takes longer hangs
WAIT_S = 6 * LIMIT_S  # for one that waits for ever
LIMIT_BYTES = 16 * 2**30  # of memory: a network that takes more fails alone, instead of bringing the machine down
COVERED = 0.7
SWAPPED = 6  # layers
PARITY = 1e-3


def families() -> dict[str, str]:
    """Module of timm.models → its smallest variant."""
    import_torchvision()
    import timm

    variants: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        variants[timm.models.model_entrypoint(name).__module__.rpartition(".")[2]].append(name)

    def size(name: str) -> tuple[bool, int, int, str]:
        config = timm.get_pretrained_cfg(name)
        parts, large = name.split("_"), config is not None and config.input_size[-1] > LARGEST_INPUT
        rank = next(
            (i for i, word in enumerate(SIZES) if word in parts or (len(word) > 1 and word in name)), len(SIZES)
        )
        return large, rank, len(name), name

    return {module: min(names, key=size) for module, names in sorted(variants.items())}


def smaller_input(reference: str) -> int | None:
    import timm

    kind, _, name = reference.partition(":")
    config = timm.get_pretrained_cfg(name) if kind == "timm" else None
    return SMALLER_INPUT if config and config.input_size[-1] > LARGEST_INPUT and not config.fixed_input_size else None


def examine(reference: str) -> dict[str, Any]:
    """All five steps for one network: the first that fails, with its reason."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    row: dict[str, Any] = {"network": reference, "layers": "", "covered": "", "operations": ""}
    step = "layers"
    try:
        teacher = load_teacher(
            reference,
            pretrained=False,
            model_args=FEWER_BLOCKS.get(reference),
            image_size=smaller_input(reference),
            input_shape={**VIDEOS, **TRANSFORMERS}.get(reference),
        )
        module, example = teacher.module, teacher.example()
        scan = find_layers(module, (example,))
        covered = sum(layer.macs for layer in scan.layers) / max(scan.total_macs, 1)
        row |= {"layers": len(scan.layers), "covered": f"{covered:.3f}"}
        uncovered = ""
        if covered < COVERED:
            worst = max(scan.skipped, key=lambda p: p.macs, default=None)
            uncovered = f"{covered:.0%} covered; largest passed over: {worst}"
        step = "reassembled"
        with torch.no_grad():
            expected = list(flat_tensors(module(example)))
            again = list(
                flat_tensors(assemble(module, scan.layers, {layer.name: "teacher" for layer in scan.layers})(example))
            )
        if not all(torch.equal(a, b) for a, b in zip(expected, again, strict=True)):
            raise RuntimeError("the reassembled teacher gives other outputs")
        step = "selection"
        drawn = random.Random(0)
        selection: dict[str, str] = {}
        for layer in drawn.sample(scan.layers, len(scan.layers)):
            if len(selection) == SWAPPED:
                break
            names = [o.name for o in offered(layer, own_module(module, layer), "default")]
            trained = [name for name in names if name not in ("teacher", "identity")]
            if trained:
                selection[layer.name] = drawn.choice(trained)
        row["operations"] = len(selection)
        if len(selection) < min(3, len(scan.layers)):
            raise RuntimeError(f"only {len(selection)} layers have an operation that is neither the teacher's nor skip")
        student = assemble(module, scan.layers, selection)
        with torch.no_grad():
            outputs = list(flat_tensors(student(example)))
        if [o.shape for o in outputs] != [e.shape for e in expected]:
            raise RuntimeError("the student's outputs have other shapes")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            step = "exported"
            parity = onnx_parity(student, export_onnx(student, example, folder / "model.onnx"), [example])
            if not parity < PARITY:
                raise RuntimeError(f"the ONNX file's outputs differ by {parity:.1e}")
            step = "loaded"
            save_student(student, folder / "student", teacher, scan.layers, selection)
            with torch.no_grad():
                loaded = list(flat_tensors(load_student(folder / "student")(example)))
            if not all(torch.equal(a, b) for a, b in zip(outputs, loaded, strict=True)):
                raise RuntimeError("the loaded student gives other outputs")
        if uncovered:
            return {**row, "complete": "no", "failed": "layers", "reason": uncovered}
        return {**row, "complete": "yes", "failed": "", "reason": ""}
    except Exception as error:
        message = re.sub(rf"{tempfile.gettempdir()}/\w+/", "", str(error))  # of no use to anybody else
        reason = f"{type(error).__name__}: {' '.join(message.split())[:200]}"
        return {**row, "complete": "no", "failed": step, "reason": reason}


def examine_apart(reference: str) -> dict[str, Any]:
    """In a process of its own, which may crash or hang; forked, so that nothing is imported a hundred times."""
    forked = multiprocessing.get_context("fork")
    ours, theirs = forked.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 10))  # at the hard limit Linux kills without a word
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        theirs.send(examine(reference))

    child = forked.Process(target=work)
    start_s = time.monotonic()
    child.start()
    theirs.close()
    try:
        if not ours.poll(WAIT_S):
            child.kill()
        row = ours.recv()
    except EOFError:
        child.join()
        late = child.exitcode == -signal.SIGXCPU or time.monotonic() - start_s > WAIT_S
        reason = f"not done within {LIMIT_S} s of processor time" if late else f"it ended with {child.exitcode}"
        row = {"network": reference, "complete": "no", "failed": "process", "reason": reason}
    child.join()
    return {**dict.fromkeys(COLUMNS, ""), **row, "seconds": round(time.monotonic() - start_s, 1)}


@click.command()
@click.argument("references", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The table as CSV; what it holds is kept.")
@click.option("--again", is_flag=True, help="Examine once more what failed before.")
@click.option(
    "--transformers", is_flag=True, help="Also the networks of transformers_networks.py, which need Transformers."
)
def main(references: tuple[str, ...], out: Path, again: bool, transformers: bool) -> None:
    """Examine REFERENCES (anew, where the table holds them), or everything that the table does not hold yet."""
    every = [*(f"timm:{name}" for name in families().values()), *(f"torchvision:{n}" for n in TORCHVISION), *VIDEOS]
    lines = out.read_text().splitlines() if out.is_file() else []
    rows: dict[str, dict[str, Any]] = {row["network"]: row for row in csv.DictReader(lines)}
    unfinished = [name for name in every if name not in rows or (again and rows[name]["complete"] != "yes")]
    for reference in references or (TRANSFORMERS if transformers else unfinished):
        rows[reference] = examine_apart(reference)
        print(*rows[reference].values(), flush=True)
        order = [*(name for name in every if name in rows), *(name for name in rows if name not in every)]
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[name] for name in order)
    for source in ("timm", "torchvision", "benchmarks"):
        those = [row for name, row in rows.items() if name.startswith(source)]
        done = sum(row["complete"] == "yes" for row in those)
        print(
            f"{source}: {done} of {len(those)} networks ({done / max(len(those), 1):.1%}) complete {', '.join(STEPS)}"
        )


if __name__ == "__main__":
    main()
