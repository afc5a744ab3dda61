"""A student against the networks that other tools make of the same teacher at the same latency, all tuned alike.

    python benchmarks/peers.py RUN --ratio 0.5 --ratio 0.3 --epochs 3 --out runs/peers

in an environment with `requirements-peers.txt` and lana. Every peer has one number that makes its network faster; it is
searched until the network measures within the budget. A peer that cannot do it is listed with its message.

uniform     the same share of channels everywhere, weakest first (Torch-Pruning, not global)
magnitude   Torch-Pruning, global, by the norm of a group's weights
taylor      Torch-Pruning, global, by weight times gradient on training images
fastnas     Model-Optimizer, its limit on operations
depth       drop whole blocks, the one of least score first
single-shot lana's program over the teacher's blocks and skips alone
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from contenders import (
    Contender,
    begin,
    difference,
    in_words,
    leave,
    measure,
    student,
    table,
    tune,
    tuning_options,
    write_results,
)
from torch import Tensor, nn

from lana.models.student import assemble
from lana.networks.mixed_precision import Compute
from lana.pipeline import open_finished
from lana.pool.candidates import unique_layers
from lana.runs.baseline import Baseline
from lana.runs.context import RunContext
from lana.selection.measurement import CANDIDATE_IMAGES
from lana.selection.program import SelectionModel
from lana.training.batchnorm import reestimate_batchnorm

Make = Callable[[float], nn.Module]  # a network for a number between 0 (as the teacher) and 1 (as fast as it goes)

STEP = 4  # of channels; ONNX Runtime wants multiples of 4, and steps of 8 or 16 leave a narrow network fewer widths
IMAGES = 1024  # of train, for gradients and for the score of Model-Optimizer's search


def pruner(
    context: RunContext,
    importance: str,
    *,
    global_pruning: bool,
    loss_of: Callable[[Any, Tensor], Tensor] | None = None,
    keep: Sequence[str] = (),
) -> Make:
    """Torch-Pruning by magnitude, or by Taylor's importance of a loss (default: the task's); `keep` stays as it is."""
    import torch_pruning as tp

    example, loss_of = context.teacher.example(), loss_of or context.task.loss
    gradients: dict[str, Tensor] = {}

    def add_gradients(module: nn.Module) -> None:
        if not gradients:
            probe = copy.deepcopy(module)
            for inputs, labels in context.data.train.subset(IMAGES, 1).batches(128):
                loss_of(probe(inputs), labels).mean().backward()
            gradients.update({name: p.grad for name, p in probe.named_parameters() if p.grad is not None})
        for name, parameter in module.named_parameters():
            parameter.grad = gradients[name].clone()

    def make(share: float) -> nn.Module:
        module = copy.deepcopy(context.teacher.module).eval()
        if importance == "taylor":
            add_gradients(module)
        measure_of = tp.importance.GroupTaylorImportance() if importance == "taylor" else None
        heads = [m for name, m in module.named_modules() if isinstance(m, nn.Linear) or name in keep]
        tp.pruner.BasePruner(
            module,
            example,
            importance=measure_of or tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            max_pruning_ratio=0.95,
            global_pruning=global_pruning,
            round_to=STEP,
            ignored_layers=heads,
        ).step()
        module.zero_grad(set_to_none=True)
        module(example)  # a wrong graph shows here
        return module

    return make


def fastnas(context: RunContext, folder: Path) -> Make:
    import modelopt.torch.prune as mtp

    images = context.data.train.subset(IMAGES, 1)
    batches = list(images.batches(128))

    def score(module: nn.Module) -> float:
        with torch.no_grad():
            right = [(module.eval()(inputs).argmax(1) == labels).sum().item() for inputs, labels in batches]
        return sum(right) / len(images)

    rules = {
        "nn.Conv2d": {"*": {"channel_divisor": STEP, "kernel_size": ()}},
        "nn.BatchNorm2d": {"*": {"feature_divisor": STEP}},
    }

    def make(share: float) -> nn.Module:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            module, _ = mtp.prune(
                copy.deepcopy(context.teacher.module).eval(),
                mode=[("fastnas", rules)],
                constraints={"flops": f"{100 * (1 - share):.4g}%"},
                dummy_input=context.teacher.example(),
                config={
                    "data_loader": batches,
                    "collect_func": lambda batch: batch[0],
                    "score_func": score,
                    "checkpoint": str(folder / "fastnas.pth"),
                },
            )
        return module

    return make


def depth(context: RunContext, model: SelectionModel) -> Make:
    skips = [
        candidate.layer
        for candidate in model.candidates
        if candidate.operation == "identity" and len(candidate.layer.members) == 1
    ]
    by_score = sorted(skips, key=lambda layer: model.scores[layer.name, "identity"])

    def make(share: float) -> nn.Module:
        dropped = {layer.name: "identity" for layer in by_score[: round(share * len(by_score))]}
        return assemble(context.teacher.module, by_score, dropped)

    return make


def single_shot(context: RunContext, model: SelectionModel, baseline: Baseline) -> Make:
    from dataclasses import replace

    candidates = [candidate for candidate in model.candidates if candidate.operation in ("teacher", "identity")]
    alone = replace(model, candidates=[candidate for candidate in candidates if len(candidate.layer.members) == 1])

    def make(share: float) -> nn.Module:
        selection = alone.solve((1 - share) * baseline.teacher_ms)
        if selection is None:
            raise ValueError(f"no skips reach {1 - share:.2f}x")
        return assemble(context.teacher.module, unique_layers(alone.candidates), selection)

    return make


def search(context: RunContext, name: str, make: Make, budget: float, folder: Path) -> Contender:
    """The network of a peer that prunes least within the budget, or its fastest; the number it was made with is kept.

    Latency is no monotone function of it: widths that do not fit the processor's vectors are slower than wider ones.
    """
    kept, tried = folder / f"{name}-{budget:g}.json", folder / f"{name}-tried.json"
    ratios: dict[float, float] = {}
    if tried.is_file():
        ratios = {float(number): ratio for number, ratio in json.loads(tried.read_text()).items()}
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if not ratios:
            ratios |= measured(context, name, make, np.linspace(0.1, 0.95, 14))
        high = min((number for number, ratio in ratios.items() if ratio <= budget), default=None)
        if high is not None:
            low = max((number for number in ratios if number < high), default=0.0)
            ratios |= measured(context, name, make, np.linspace(low, high, 6)[1:-1])
        tried.write_text(json.dumps(dict(sorted(ratios.items())), indent=1))
        within = [number for number, ratio in ratios.items() if ratio <= budget]
        number = min(within) if within else min(ratios, key=lambda number: ratios[number])
        kept.write_text(json.dumps({"number": number, "ratio": ratios[number]}))
    chosen = json.loads(kept.read_text())
    module = finished(context, make(chosen["number"]))
    if chosen["ratio"] <= budget:
        return Contender(name=f"{name}-{budget:g}x", kind=name, module=module)
    note = f"does not reach {budget:g}x; this is its fastest network"
    print(f"{name} {note}: {chosen['ratio']:.3f}x", flush=True)
    return Contender(name=f"{name}-fastest", kind=name, module=module, note=note)


def measured(context: RunContext, name: str, make: Make, numbers: Sequence[float] | np.ndarray) -> dict[float, float]:
    """Number → ratio to the teacher; numbers that the peer refuses are left out, with its message."""
    made: list[tuple[float, Contender]] = []
    for number in numbers:
        try:
            made.append((float(number), Contender(name=f"{number:g}", kind=name, module=make(float(number)))))
        except Exception as error:
            print(f"{name} at {number:.3f}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    if not made:
        raise ValueError(f"{name} makes no network of this teacher")
    measure(context, [contender for _, contender in made], processes=3)
    ratios = {number: contender.ratio for number, contender in made}
    print(f"{name}: " + ", ".join(f"{number:.3f} → {ratio:.3f}x" for number, ratio in ratios.items()), flush=True)
    return ratios


def finished(context: RunContext, module: nn.Module) -> nn.Module:
    """With BatchNorm statistics of its own, as lana's students have."""
    reestimate_batchnorm(
        module, context.data.train.subset(CANDIDATE_IMAGES, 2), compute=Compute(context.recipe.compute.device)
    )
    return module.cpu().eval()


def peers(
    context: RunContext, model: SelectionModel, baseline: Baseline, folder: Path
) -> dict[str, Callable[[], Make]]:
    return {
        "uniform": lambda: pruner(context, "magnitude", global_pruning=False),
        "magnitude": lambda: pruner(context, "magnitude", global_pruning=True),
        "taylor": lambda: pruner(context, "taylor", global_pruning=True),
        "fastnas": lambda: fastnas(context, folder),
        "depth": lambda: depth(context, model),
        "single-shot": lambda: single_shot(context, model, baseline),
    }


def found_peers(names: Sequence[str], makes: dict[str, Callable[[], Make]], search_one: Any) -> list[Contender]:
    """The peers that meet the budget; for the others the message."""
    contenders = []
    for name in names:
        try:
            contenders.append(search_one(name, makes[name]()))
        except Exception as error:
            print(f"{name} cannot: {type(error).__name__}: {str(error)[:500]}", flush=True)
    return contenders


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", type=float, multiple=True, default=(0.5, 0.3), show_default=True)
@click.option("--peer", "names", multiple=True, help="Default: all.")
@click.option("--batch", "batches", type=int, multiple=True, help="Also measured at this batch.")
@tuning_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/peers"))
def main(
    run: Path,
    ratios: tuple[float, ...],
    names: tuple[str, ...],
    batches: tuple[int, ...],
    epochs: float,
    seeds: int,
    compile: bool,
    elsewhere: bool,
    out: Path,
) -> None:
    groups: dict[float, list[Contender]] = {}
    with open_finished(run) as (context, baseline, pool, finished):
        begin(out, context)
        folder = out / "search"
        makes = peers(context, finished.model, baseline, folder)
        for ratio in ratios:
            ours = student(context, baseline, pool, finished, ratio)
            others = found_peers(
                names or list(makes), makes, lambda name, make, ratio=ratio: search(context, name, make, ratio, folder)
            )
            for other in others:
                other.target = ours.target
            groups[ratio] = [ours, *others]
        everybody = [one for group in groups.values() for one in group]
        measure(context, everybody, batches=batches)
    if elsewhere:
        leave(everybody, out / "tuned", epochs=epochs, seeds=seeds)
        return
    for seed in range(seeds):
        for one in everybody:
            tune(context, one, epochs=epochs, seed=seed, folder=out / "tuned", compile=compile)
            write_results(out / "peers.json", everybody, {"run": str(run), "epochs": epochs})
    print(table(everybody))
    for ratio, (ours, *others) in groups.items():
        for other in others:
            print(f"{ratio:g}x, lana less {other.kind}: {in_words(difference(ours, other))}")


if __name__ == "__main__":
    main()
