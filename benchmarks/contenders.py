"""Contenders side by side, fairly: the same tuning for each, latencies from one process, accuracies with intervals."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from lana.config.options import FineTuning
from lana.evaluation.metrics import evaluate_module
from lana.exporters.computation import to_computation
from lana.models.student import count_parameters
from lana.models.student_files import load_student
from lana.models.teacher import load_teacher
from lana.pool.stages import Pool
from lana.runs.baseline import Baseline, runtime_format
from lana.runs.context import RunContext
from lana.selection.search import BudgetSearch
from lana.selection.stage import select_student
from lana.training.distributed import SingleProcess
from lana.training.finetuning import TrainingSetup, finetune
from profilers import Comparison, compare

BOOTSTRAPS = 1_000
BATCH = 128
WAITING = ".network"  # suffix of a network that is to be tuned elsewhere


def tuning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The tuning options that every comparison has."""
    options = [
        click.option("--epochs", type=float, default=3.0),
        click.option("--seeds", type=int, default=1),
        # Where a processor computes in bfloat16 itself, it gains nothing.
        click.option("--compile", is_flag=True, help="Half a minute a network: twice as fast on older processors."),
        click.option("--elsewhere", is_flag=True, help="Write what is not tuned yet, for tune.py on another machine."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(kw_only=True, eq=False)
class Contender:
    """A network with what is found out about it; `correct` has one entry a test image, for each seed."""

    name: str
    kind: str
    module: nn.Module
    target: str = ""
    parameters: int = 0
    ratios: tuple[float, ...] = ()
    ratio_at_batch: dict[int, float] = field(default_factory=dict)  # batches besides the run's own
    milliseconds: float = float("nan")
    before: float = float("nan")
    correct: list[np.ndarray] = field(default_factory=list)
    note: str = ""

    @property
    def ratio(self) -> float:
        return float(np.median(self.ratios)) if self.ratios else float("nan")

    @property
    def accuracy(self) -> float:
        return float(np.mean([c.mean() for c in self.correct])) if self.correct else float("nan")


def begin(out: Path, context: RunContext) -> None:
    """Take a folder for a teacher: what is found and tuned in it is of this one.

    Raises:
        UsageError: it is another teacher's.
    """
    out.mkdir(parents=True, exist_ok=True)
    stored, ours = out / "teacher.txt", digest(context.teacher.module)
    if stored.is_file() and stored.read_text().strip() != ours:
        raise click.UsageError(f"{out} holds contenders of another teacher. Give another --out.")
    stored.write_text(ours + "\n")


def sibling(context: RunContext, specification: str) -> Contender:
    """A network of its own, specified as NAME=MODEL,WEIGHTS; preprocessing as the teacher's."""
    name, _, where = specification.partition("=")
    reference, _, weights = where.partition(",")
    recipe = context.recipe
    preprocessing: dict[str, Any] = {
        "image_size": recipe.teacher.image_size,
        "mean": recipe.teacher.mean,
        "std": recipe.teacher.std,
    }
    loaded = load_teacher(reference, weights=weights, **{k: v for k, v in preprocessing.items() if v is not None})
    return Contender(name=name, kind="sibling", module=loaded.module)


def student(
    context: RunContext, baseline: Baseline, pool: Pool, search: BudgetSearch, ratio: float, matched: str = ""
) -> Contender:
    """The student of the run at a share of the teacher's latency, or matched to a network that has that share.

    It is made once: measured again, that network would have a slightly different share.
    """
    name = f"lana-{matched or f'{ratio:.3f}x'}"
    context = dataclasses.replace(context, recipe=context.recipe.replace(budget=f"{ratio:.4f}x"))
    folder = context.run.student(name)
    if not (folder / "selection.json").is_file():
        select_student(context, baseline, pool, search, name)
    return Contender(name=name, kind="lana", module=load_student(folder), target=matched or f"{ratio:g}x")


def correct_on_test(context: RunContext, module: nn.Module, device: str) -> np.ndarray:
    """For each test image, True if it is classified correctly."""
    return np.array(evaluate_module(module, context.data.test, context.task, device=device).records) > 0.5


def tune(
    context: RunContext, contender: Contender, *, epochs: float, seed: int, folder: Path, compile: bool = False
) -> None:
    """The same fine-tuning for everybody: the teacher's outputs alone, on blends of images.

    A row is kept under the name of the weights it began with, so whatever else changes, it is computed once.
    """
    result = result_of(begun(contender, folder), epochs, seed)
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        settings = dataclasses.replace(tuning(epochs, seed), compile=compile)
        tune_row(context, contender.module, result, settings, context.recipe.compute.device)
    with np.load(result) as content:
        contender.before = float(content["before"].mean())
        contender.correct.append(content["correct"])
        validation, seconds = [round(float(v), 4) for v in content["validation"]], float(content["seconds"])
    print(
        f"{contender.name}: {contender.before:.2%}, after {epochs:g} epochs {contender.correct[-1].mean():.2%}"
        f" (seed {seed}; validation {validation}; {seconds:.0f} s)",
        flush=True,
    )


def as_it_is(context: RunContext, contender: Contender) -> None:
    """Its accuracy without any tuning, in place of a seed's."""
    if not contender.correct:
        contender.correct.append(correct_on_test(context, contender.module, context.recipe.compute.device))
        contender.before = float(contender.correct[0].mean())
    else:
        contender.correct.append(contender.correct[0])


def leave(contenders: Sequence[Contender], folder: Path, *, epochs: float, seeds: int) -> None:
    """Write the networks of which a row is missing, for `tune.py` on another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for contender in contenders:
        path = begun(contender, folder)
        if not all(result_of(path, epochs, seed).is_file() for seed in range(seeds)):
            save(contender.module, path.with_name(path.name + WAITING))


def save(network: nn.Module, path: Path) -> None:
    """Pickle a network; its classes may be of a file that has been imported again since."""
    for part in network.modules():
        setattr(sys.modules[type(part).__module__], type(part).__qualname__, type(part))
    torch.save(network, path)


def begun(contender: Contender, folder: Path) -> Path:
    """The prefix of a network's files, named by the weights that its tuning began with."""
    return folder / f"{contender.name}-{digest(contender.module)}"


def result_of(begun: Path, epochs: float, seed: int) -> Path:
    """Where a row of a network is kept."""
    return begun.with_name(f"{begun.name}-{epochs:g}-{seed}.npz")


def tuning(epochs: float, seed: int) -> FineTuning:
    """The settings with which every contender is tuned.

    The teacher's outputs on its own training images carry little information; those on blended images carry more (Beyer
    et al. 2022, "Knowledge distillation: a good teacher is patient and consistent"). Rates are the defaults of `lana
    finetune`.
    """
    return FineTuning(epochs=epochs, seed=seed, batch_size=BATCH, distillation=1.0, mixup=1.0)


def tuning_setup(context: RunContext, settings: FineTuning, folder: Path, device: str) -> TrainingSetup:
    """The same for all contenders in a folder, where the teacher's outputs are cached."""
    return TrainingSetup(
        teacher=context.teacher.module,
        data=context.data,
        task=context.task,
        settings=settings,
        group=SingleProcess(device),
        cached_outputs=folder / "teacher_outputs",
    )


def tune_row(context: RunContext, network: nn.Module, result: Path, settings: FineTuning, device: str) -> None:
    """Tune a copy of a network and write the result; an interrupted tuning resumes.

    The checkpoint is chosen on the validation part of train; test is read once, at the end.
    """
    module, began_s = copy.deepcopy(network), time.monotonic()
    before = correct_on_test(context, module, device)
    torch.compiler.reset()  # what was compiled for the last contender counts against a limit
    checkpoint = result.with_suffix(".pt")
    curve = finetune(module, tuning_setup(context, settings, result.parent, device), checkpoint=checkpoint)
    validation = [epoch.validation_metric for epoch in curve]
    correct = correct_on_test(context, module, device)
    np.savez(result, before=before, correct=correct, validation=validation, seconds=time.monotonic() - began_s)
    checkpoint.unlink(missing_ok=True)


def digest(module: nn.Module) -> str:
    """A digest of the weights of a network and their names; the names of its classes do not matter."""
    content = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content.update(name.encode())
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:8]


def measure(
    context: RunContext, contenders: Sequence[Contender], *, processes: int = 5, batches: Sequence[int] = ()
) -> None:
    """Measure all of them, paired with the teacher in the same fresh processes; ratios at other batches as well."""
    comparisons = _compared(context, contenders, context.recipe.profiling.batch, processes)
    for contender, comparison in zip(contenders, comparisons, strict=True):
        contender.ratios = comparison.ratios
        contender.milliseconds = comparison.ratio * float(np.median(comparison.reference_ms))
        contender.parameters = count_parameters(contender.module)
    for batch in batches:
        comparisons = _compared(context, contenders, batch, processes)
        for contender, comparison in zip(contenders, comparisons, strict=True):
            contender.ratio_at_batch[batch] = comparison.ratio


def _compared(context: RunContext, contenders: Sequence[Contender], batch: int, processes: int) -> list[Comparison]:
    settings = dataclasses.replace(context.runtime_settings, batch=batch)
    format = runtime_format(context.recipe.profiling.runtime, settings)
    networks = [("teacher", context.teacher.module), *((c.name, c.module) for c in contenders)]
    with tempfile.TemporaryDirectory() as folder:
        files = [
            to_computation(
                module, context.teacher.example(batch), Path(folder), name=name, format=format, stem=f"file{index}"
            )
            for index, (name, module) in enumerate(networks)
        ]
        return compare(
            files[0], files[1:], runtime=context.recipe.profiling.runtime, settings=settings, processes=processes
        )


def difference(one: Contender, other: Contender, *, seed: int = 0) -> tuple[float, float, float]:
    """Accuracy of `one` less that of `other` with the 95% interval of a paired bootstrap over test images."""
    paired = np.mean([a.astype(float) - b for a, b in zip(one.correct, other.correct, strict=True)], axis=0)
    random = np.random.default_rng(seed)
    drawn = paired[random.integers(len(paired), size=(BOOTSTRAPS, len(paired)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(paired.mean()), float(low), float(high)


def in_words(interval: tuple[float, float, float]) -> str:
    """A difference in words."""
    mean, low, high = interval
    return f"{mean:+.2%} (95% interval {low:+.2%} to {high:+.2%})"


def write_results(path: Path, contenders: Sequence[Contender], about: dict[str, object]) -> None:
    """All figures as JSON, for the plots and tables."""
    rows = []
    for contender in contenders:
        row = {k: v for k, v in vars(contender).items() if k not in ("module", "correct")}
        rows.append({**row, "ratio": contender.ratio, "accuracy": contender.accuracy, "seeds": len(contender.correct)})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "contenders": rows}, indent=1, default=str) + "\n")


def table(contenders: Sequence[Contender]) -> str:
    """Markdown: one line a contender, the slowest first."""
    batches = sorted({batch for c in contenders for batch in c.ratio_at_batch})
    titles = ["network", "kind", "latency", *(f"at batch {batch}" for batch in batches)]
    titles += ["ms", "parameters", "before tuning", "accuracy"]
    rows = [titles, ["---"] * len(titles)]
    for c in sorted(contenders, key=lambda c: -c.ratio):
        others = [f"{c.ratio_at_batch.get(batch, float('nan')):.3f}x" for batch in batches]
        accuracies = [f"{c.before:.2%}", f"{c.accuracy:.2%}"]
        rows.append(
            [c.name, c.kind, f"{c.ratio:.3f}x", *others, f"{c.milliseconds:.3f}", f"{c.parameters:,}", *accuracies]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
