"""How much the network is expected to lose with one operation swapped in.

The default score is the distance of the outputs from the teacher's (Kullback-Leibler for classification), which
needs no labels; the paper's is the change of the task loss (section 3.2); the feature error is the cheapest. All three
are taken in one go, and `losses_of` picks one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lana.common.files import explain_damage, read_records, write_records
from lana.data.split import Split
from lana.errors import UserError
from lana.evaluation.metrics import evaluating
from lana.evaluation.task import Task
from lana.models.selection import Pair
from lana.networks.features import replayable
from lana.networks.layers import Layer
from lana.networks.mixed_precision import Compute, in_full
from lana.networks.surgery import switched
from lana.operations.families import split_precision
from lana.pool.int8_operations import OperationQuantizer

BATCH = 64
CONSTANT_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean distance to the teacher over `images` training images, with its standard error.

    `task_loss` is the change of the task's loss against the labels, nan without labels. `feature_error` is the squared
    error of the layer's output over its power.
    """

    layer: str
    operation: str
    score: float
    standard_error: float
    task_loss: float
    images: int
    feature_error: float = float("nan")

    @property
    def pair(self) -> Pair:
        return self.layer, self.operation

    @classmethod
    def none(cls, layer: str, operation: str) -> Score:
        """The score of an operation that does not run: it is left out of the pool."""
        nothing = float("nan")
        return cls(layer=layer, operation=operation, score=nothing, standard_error=nothing, task_loss=nothing, images=0)


CONSTANT: Pair = ("", "constant")  # the row of a network that gives the mean output whatever it sees
COLUMNS = {"distance": "score", "task": "task_loss", "feature": "feature_error"}  # what `score_by` may be


def losses_of(scores: Sequence[Score], kind: str) -> dict[Pair, float]:
    """(layer, operation) → what the network is expected to lose, by one kind of score; at least nothing.

    Operations with which the network's outputs are no numbers are left out, and so are those with which it is as far
    from the teacher as one that ignores its input: beyond that a distance saturates, and no sum tells ruins apart.

    Raises:
        UserError: the scores have no such figure.
    """
    column, limit = COLUMNS[kind], saturation(scores)
    rows = [row for row in scores if row.pair != CONSTANT and not row.score >= limit]
    losses = {row.pair: float(getattr(row, column)) for row in rows}
    finite = {pair: max(0.0, value) for pair, value in losses.items() if math.isfinite(value)}
    if kind != "distance" and len(finite) < len(losses):
        raise UserError(f"--score-by {kind}: this run has no {column} of some operations. Give --score-by distance.")
    return finite


def saturation(scores: Sequence[Score]) -> float:
    """The distance of a network that ignores its input; infinite for runs that did not take it."""
    return next((row.score for row in scores if row.pair == CONSTANT and row.score > 0), math.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """Scores operations, each alone in the teacher, on all of `split`."""

    teacher: nn.Module
    split: Split
    task: Task
    compute: Compute
    quantizer: OperationQuantizer | None = None

    def score(
        self,
        pool: Sequence[tuple[Layer, str]],
        operations: Mapping[Pair, nn.Module],
        *,
        path: Path,
        on_progress: Callable[[float, str], None] = lambda done, detail: None,
    ) -> list[Score]:
        """Score each (layer, operation) of the pool; kept as CSV at `path`, where those of before are not taken again.

        Only the changed part is run: whatever the network computes before the layer is recorded once a batch and
        replayed. The teacher's own operation scores zero by definition.
        """
        scores = _read(path)
        layers = list({layer.name: layer for layer, _ in pool}.values())
        for position, layer in enumerate(layers):
            names = [name for other, name in pool if other.name == layer.name and (layer.name, name) not in scores]
            if names:
                add_scores(path, self.score_layer(layers, layer, names, operations))
                scores = _read(path)
            on_progress((position + 1) / len(layers), layer.name)
        return [scores[layer.name, name] for layer, name in pool]

    def constant(self) -> Score:
        """The score of a network that gives the mean of the teacher's outputs to every image."""
        distances = []
        with evaluating(self.teacher, self.compute), torch.no_grad():
            for inputs, _ in self.split.batches(BATCH, device=self.compute.device):
                expected = in_full(self.teacher(inputs))
                mean = tree_map(lambda leaf: _mean(leaf, len(inputs)), expected)  # noqa: B023
                distances.append(self.task.distance(mean, expected).float().cpu())
                if len(distances) == CONSTANT_BATCHES:
                    break
        score = float(torch.cat(distances).mean())
        layer, operation = CONSTANT
        nothing = {"standard_error": math.nan, "task_loss": math.nan, "images": sum(map(len, distances))}
        return Score(layer=layer, operation=operation, score=score, **nothing)  # type: ignore[arg-type]

    def score_layer(
        self,
        layers: Sequence[Layer],
        layer: Layer,
        names: Sequence[str],
        operations: Mapping[Pair, nn.Module],
    ) -> list[Score]:
        """The scores of operations at one of the `layers` that a selection chooses at."""
        teacher, task, device, power = self.teacher, self.task, self.compute.device, 0.0
        modules, failed = self._modules(layer, names, operations)
        sums = {name: _Sums() for name in names if name not in failed}
        with evaluating(teacher, self.compute), self.compute.channels_last(modules.values()), torch.no_grad():
            # A span's other parts would run behind its operation: they are switched to pass their input on.
            before = replayable(teacher, layers, next(self.split.batches(1, device=device))[0])
            first = before.index(layer.members[0]) if layer.members[0] in before else 0
            with switched(teacher, [*before[:first], *layer.parts]) as switches:
                earlier, parts = [switches[name] for name in before[:first]], [switches[name] for name in layer.parts]
                for inputs, labels in self.split.batches(BATCH, device=device):
                    for part in parts:
                        part.instead = None
                    for switch in earlier:
                        switch.record()
                    with output_of(parts[-1]) as outputs:
                        expected = in_full(teacher(inputs))
                    target = outputs[0]
                    power += float(target.square().sum())
                    for switch in earlier:
                        switch.replay(copy=switch is earlier[-1])  # an operation may work in place on its input
                    expected_loss = task.loss(expected, labels)
                    for part in parts[1:]:
                        part.instead = nn.Identity()
                    for name, found in sums.items():
                        if name == "teacher":
                            found.add(torch.zeros(len(inputs)), torch.zeros(len(inputs)), 0.0)
                            continue
                        parts[0].instead = modules[name]
                        with output_of(parts[0]) as outputs:
                            output = in_full(teacher(inputs))
                        error = float((outputs[0] - target).square().sum())
                        found.add(task.distance(output, expected), task.loss(output, labels) - expected_loss, error)
        for module in modules.values():
            module.cpu()  # students are assembled there
        scored = {name: found.score(layer.name, name, power) for name, found in sums.items()}
        return [scored.get(name) or Score.none(layer.name, name) for name in names]

    def _modules(
        self, layer: Layer, names: Sequence[str], operations: Mapping[Pair, nn.Module]
    ) -> tuple[dict[str, nn.Module], list[str]]:
        """The modules to swap in, int8 ones as they will run; and the names of those that cannot be quantized."""
        int8 = [name for name in names if split_precision(name)[1] == "int8"]
        quantized: dict[str, nn.Module | None] = {}
        if int8 and self.quantizer is not None:
            self.teacher.cpu()
            quantized = self.quantizer.modules(layer, int8, operations)
        plain = {name: operations[layer.name, name] for name in names if name not in int8 and name != "teacher"}
        modules = {**plain, **{name: module for name, module in quantized.items() if module is not None}}
        moved = {name: module.to(self.compute.device).eval() for name, module in modules.items()}
        return moved, [name for name, module in quantized.items() if module is None]


def _mean(leaf: Any, batch: int) -> Any:
    """The mean over the examples, for each of them; what holds for all of a batch stays."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.ndim == 0 or len(leaf) != batch:
        return leaf
    return leaf.mean(0, keepdim=True).expand_as(leaf)


@dataclass(eq=False)
class _Sums:
    """The distances and changes of the loss of one operation, example by example, and its squared error."""

    distances: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    error: float = 0.0

    def add(self, distances: Tensor, losses: Tensor, error: float) -> None:
        self.distances.append(distances.float().cpu())
        self.losses.append(losses.float().cpu())
        self.error += error

    def score(self, layer: str, operation: str, power: float) -> Score:
        distances = torch.cat(self.distances)
        count = len(distances)
        return Score(
            layer=layer,
            operation=operation,
            score=float(distances.mean()),
            standard_error=float(distances.std() / count**0.5) if count > 1 else float("nan"),
            task_loss=float(torch.cat(self.losses).mean()),
            images=count,
            feature_error=self.error / max(power, 1e-12),
        )


@contextlib.contextmanager
def output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """While open, what the module gives is kept (copied: the network may work in place on it)."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, output: outputs.append(output.to(torch.float32, copy=True)))
    try:
        yield outputs
    finally:
        hook.remove()


def read_scores(path: Path) -> list[Score]:
    """The scores that a run holds."""
    return list(_read(path).values())


def scored(path: Path) -> set[Pair]:
    """The pairs whose scores a run holds."""
    return set(_read(path))


def _read(path: Path) -> dict[Pair, Score]:
    rows = read_records(path, Score, missing=("score", "standard_error", "task_loss", "feature_error"))
    with explain_damage(path):
        return {score.pair: score for score in (Score(**row) for row in rows)}


def add_scores(path: Path, scores: Sequence[Score]) -> None:
    """Add scores to those of a file, in the order of their names, whichever came first; the constant network's last."""
    by_pair = {**_read(path), **{score.pair: score for score in scores}}
    ordered = sorted(by_pair.values(), key=lambda score: (score.pair == CONSTANT, score.pair))
    write_records(path, map(vars, ordered))
