"""Make the golden files: what this code does, for the code that comes after it to compare with.

    python tests/golden/make.py selections --cifar PATH   # PATH: resnet_cifar.py, resnet56.safetensors, *.parquet
    python tests/golden/make.py weights operators keys help summary

A file is made anew only where a change is meant to change what it holds; help texts and the keys of a summary may
change with words, all else may not.
"""

import argparse
import collections
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import today
from places import EXPORTED
from torch import Tensor

HERE = Path(__file__).parent
COUNT = 5  # selections for each budget
ROWS = 20  # keys for each shipped table
STEPS = 20
BUDGETS = {"digits-resnet": ["0.5x", "0.7x", "0.35x"], "resnet56": ["0.9x", "0.95x", "0.86x"]}
OPTIONS = {"refine": 12, "calibrate": 8}  # students measured to correct scores and latencies
LEAST = {"epochs": 0.0, "distill_epochs": 1.0, "distill_images": 640, "score_images": 200, "seed": 0}
NETWORKS = (
    "timm:resnet50",
    "timm:mobilenetv2_100",
    "timm:mobilenetv3_large_100",
    "timm:efficientnet_b0",
    "timm:vit_small_patch16_224",
)
DISTILLED = (
    *(("blocks.1", name) for name in ("linear_k3", "cb_res_k3_w0.25", "pruned_w0.5", "low_rank_r0.5")),
    *(("blocks.12", name) for name in ("linear_k1", "efn_e3_k3_se0", "halved_w0.5")),
    ("blocks.1+blocks.2", "merged_w0.5"),
)
STUDENT = {"blocks.1": "cb_res_k3_w0.25", "blocks.3+blocks.4": "linear_k3", "blocks.7": "identity"}
FINETUNED: dict[str, dict[str, Any]] = {
    "default": {},
    "sgd": {"optimizer": "sgd", "lr": 0.05, "mixup": 0.2, "cutmix": 1.0, "feature_weight": 0.1},
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict):  # one line an entry
        lines = (f"{json.dumps(name)}: {json.dumps(inner)}" for name, inner in value.items())
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        path.write_text(json.dumps(value, indent=1) + "\n")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def digests(weights: dict[str, Tensor]) -> dict[str, list[float]]:
    """Sum and norm of every tensor, and of its product with a ramp, which tells where in it something changed."""
    found = {}
    for name, tensor in weights.items():
        flat = tensor.detach().double().flatten()
        ramp = flat.new_tensor(range(1, len(flat) + 1)) / len(flat)
        found[name] = [float(f"{float(value):.9g}") for value in (flat.sum(), flat.norm(), flat @ ramp)]
    return found


def copy_run(run: Path, folder: Path) -> None:
    """What a selection needs of a run: the pool, its table and scores, and the logs."""
    folder.mkdir(exist_ok=True)
    write(folder / "layers.json", read(run / "pool" / "layers.json"))
    for name in ("table.csv", "scores.csv", "measured_students.csv", "losses.csv"):
        shutil.copy(run / "pool" / name, folder / name)
    pd.DataFrame(today.unmeasured(run / "pool")).to_csv(folder / "candidates.csv", index=False)
    teacher_ms = read(run / "pool" / "teacher.json")["teacher_ms"]
    budgets = {name: read(run / "students" / name / "selection.json")["budget_ms"] for name in BUDGETS[folder.name]}
    setting = {"teacher_ms": teacher_ms, **OPTIONS, "dropped": today.given_up(run / "pool")}
    write(folder / "setting.json", {**setting, "count": COUNT, "budgets_ms": budgets})


def selections(folder: Path) -> dict[str, Any]:
    setting = read(folder / "setting.json")
    count, budgets_ms = setting.pop("count"), setting.pop("budgets_ms")
    return {
        name: today.selected(today.selector(folder, **setting), name, budget_ms, count)
        for name, budget_ms in budgets_ms.items()
    }


def kept(folder: Path) -> dict[str, str]:
    """Layer → the operations that are fast enough to be trained."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for row in today.candidates(folder):
        if row.kept:
            found[row.layer.name].append(row.operation)
    return {layer: " ".join(names) for layer, names in found.items()}


def make_selections(run: Path, folder: Path) -> None:
    copy_run(run, folder)
    write(folder / "kept.json", kept(folder))
    write(folder / "selections.json", selections(folder))


def make_weights(work: Path) -> None:
    weights, scores = today.distilled(work / "distilled", DISTILLED, STEPS)
    write(HERE / "weights" / "distilled.json", digests(weights))
    write(HERE / "weights" / "scores.json", scores)
    for name in FINETUNED:
        write(HERE / "weights" / f"finetuned-{name}.json", digests(tune(work / name, name)))


def tune(folder: Path, name: str) -> dict[str, Tensor]:
    return today.finetuned(folder, STUDENT, STEPS, **FINETUNED[name])


def make_operators(work: Path) -> None:
    write(HERE / "onnx_operators.json", {name: today.onnx_operators(name, at, work) for name, at in EXPORTED.items()})


def make_keys() -> None:
    """Of every shipped table 20 keys that the code computes from the module, few of one family."""
    found: dict[str, list[list[str]]] = {}
    known: dict[tuple[str, str, str], str] = {}
    for path in sorted((today.ROOT / "hardware_tables").glob("*.csv")):
        rows = today.table_rows(path)
        chosen: list[list[str]] = []
        taken: collections.Counter[str] = collections.Counter()
        models = ("benchmarks/staircase.py",) if path.stem.endswith("-widths") else NETWORKS
        for row in sorted(rows, key=lambda row: row["key"]):
            if len(chosen) == ROWS or taken[row["family"]] >= (5 if len(models) == 1 else 3):
                continue
            for model in models:
                place = (model, row["layer"], row["operation"])
                if len(models) > 1 and row["layer"] not in today.teacher_of(model)[1]:
                    continue
                if place not in known:
                    known[place] = today.key_of(*place)
                if known[place] == row["key"]:
                    chosen.append([row["key"], *place])
                    taken[row["family"]] += 1
                    break
        found[path.name] = chosen
        print(path.name, len(chosen), dict(taken))
    write(HERE / "structure_keys.json", found)


def make_help() -> None:
    sections = (f"$ {name} --help\n{text}" for name, text in today.help_texts().items())
    (HERE / "help.txt").write_text("\n".join(sections))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["selections", "weights", "operators", "keys", "help", "summary"])
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10 as parquet and of a ResNet-56")
    arguments = parser.parse_args()
    cifar: Path | None = arguments.cifar
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "selections" in arguments.what:
            networks: dict[str, dict[str, Any]] = {"digits-resnet": {"model": "digits-resnet", "data": "digits"}}
            if cifar is not None:
                networks["resnet56"] = {
                    "model": f"{cifar}/resnet_cifar.py:resnet56",
                    "weights": f"{cifar}/resnet56.safetensors",
                    "data": f"parquet:{cifar}",
                    "image_size": 32,
                    "mean": (0.485, 0.456, 0.406),
                    "std": (0.229, 0.224, 0.225),
                    "layers": "layer1.2,layer1.3,layer2.2,layer2.3,layer3.2,layer3.3",
                }
            for name, network in networks.items():
                today.make_run(work / name, BUDGETS[name], proposals=COUNT, **network, **LEAST, **OPTIONS)
                make_selections(work / name, HERE / name)
        if "weights" in arguments.what:
            make_weights(work)
        if "operators" in arguments.what:
            make_operators(work)
        if "keys" in arguments.what:
            make_keys()
        if "help" in arguments.what:
            make_help()
        if "summary" in arguments.what:
            write(HERE / "summary_keys.json", today.summary_keys(work / "summary"))


if __name__ == "__main__":
    main()
