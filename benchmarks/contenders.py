"""Contenders side by side, fairly: the same tuning for each, latencies from one process, accuracies with intervals."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lana import stages
from lana.evaluate import evaluating
from lana.export import to_computation
from lana.finetune import FineTuning, finetune
from lana.pipeline import Setting
from lana.student import count_parameters
from profilers import Comparison, compare

BOOTSTRAPS = 1_000


@dataclass(kw_only=True, eq=False)
class Contender:
    """A network with what is found out about it; `correct` has one entry a test image, for each seed."""

    name: str
    kind: str
    module: nn.Module
    target: str = ""
    parameters: int = 0
    ratios: tuple[float, ...] = ()
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


def correct_on_test(setting: Setting, module: nn.Module) -> np.ndarray:
    """Whether each test image is classified rightly."""
    found = []
    with evaluating(module, setting.recipe.device), torch.no_grad():
        for inputs, labels in setting.data.test.batches(250, device=setting.recipe.device):
            found.append((module(inputs).argmax(1) == labels).cpu().numpy())
    return np.concatenate(found)


def tune(setting: Setting, contender: Contender, *, epochs: float, seed: int, folder: Path) -> None:
    """The same fine-tuning for everybody: distillation from the teacher, default settings of `lana finetune`.

    The checkpoint is chosen on the validation part of train; test is read once, here, at the end.
    """
    done = folder / f"{contender.name}-{epochs:g}-{seed}.npy"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        module = copy.deepcopy(contender.module)
        settings = FineTuning(epochs=epochs, seed=seed, device=setting.recipe.device)
        finetune(
            module,
            setting.teacher.module,
            setting.data,
            setting.task,
            settings,
            checkpoint=folder / f"{contender.name}.pt",
        )
        np.save(done, correct_on_test(setting, module))
    contender.correct.append(np.load(done))
    print(f"{contender.name}: {contender.correct[-1].mean():.2%} after {epochs:g} epochs, seed {seed}", flush=True)


def measure(setting: Setting, contenders: Sequence[Contender], *, processes: int = 5) -> None:
    """Milliseconds of all of them beside the teacher, in the same fresh processes."""
    example = setting.teacher.example(setting.recipe.batch)
    with tempfile.TemporaryDirectory() as folder:
        form = stages.runtime_form(setting.recipe.runtime, setting.runtime_settings)
        files = [
            to_computation(module, example, Path(folder), name=name, form=form, stem=f"file{index}")
            for index, (name, module) in enumerate(
                [("teacher", setting.teacher.module), *((c.name, c.module) for c in contenders)]
            )
        ]
        found: list[Comparison] = compare(
            files[0],
            files[1:],
            runtime=setting.recipe.runtime,
            settings=setting.runtime_settings,
            processes=processes,
        )
    for contender, comparison in zip(contenders, found, strict=True):
        contender.ratios = comparison.ratios
        contender.milliseconds = comparison.ratio * float(np.median(comparison.reference_ms))
        contender.parameters = count_parameters(contender.module)


def difference(one: Contender, other: Contender, *, seed: int = 0) -> tuple[float, float, float]:
    """Accuracy of `one` less that of `other` with the 95% interval of a paired bootstrap over test images."""
    paired = np.mean([a.astype(float) - b for a, b in zip(one.correct, other.correct, strict=True)], axis=0)
    random = np.random.default_rng(seed)
    drawn = paired[random.integers(len(paired), size=(BOOTSTRAPS, len(paired)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(paired.mean()), float(low), float(high)


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
    lines = [
        "| network | kind | latency | ms | parameters | before tuning | accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in sorted(contenders, key=lambda c: -c.ratio):
        lines.append(
            f"| {c.name} | {c.kind} | {c.ratio:.3f}x | {c.milliseconds:.3f} | {c.parameters:,} "
            f"| {c.before:.2%} | {c.accuracy:.2%} |"
        )
    return "\n".join(lines)
