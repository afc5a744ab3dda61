"""Block-wise distillation of the pool: every operation learns its layer's outputs, many from one teacher pass.

The loss is the mean squared error normalised by the target's power (Puzzle, section 3; the paper does not normalise).
The inputs are the teacher's own features, so that operations are trained independently. `lana.pool.block_training`
holds the loop, this module its inputs and outputs: groups that fit in memory, starts, results on disk.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lana.common.files import explain_damage, read_records, write_records
from lana.config.recipe import fingerprint
from lana.data.split import Data, Split
from lana.errors import LanaError
from lana.models.selection import Pair
from lana.models.student import build_operation
from lana.models.student_files import load_operation, save_operation
from lana.networks.features import captured, forward_until
from lana.networks.layers import Layer
from lana.pool.block_training import (
    LEARNING_RATES,
    RATE_SEARCH_STEPS,
    BlockTraining,
    Distillation,
    errors_of,
    has_checkpoint,
    search_learning_rates,
    train,
)

START_IMAGES = 256  # whose features the closed-form starts are solved on
CHECK_IMAGES = 256  # of the validation part, on which start and end are compared
MIN_TRAINING_PER_SEARCH = 10  # steps of a training to those of a learning rate that is tried; shorter ones do without


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """The error of an operation against its layer, on images that it was not trained on.

    Errors are normalised by the target's power: 0 is perfect, 1 is as bad as giving zeros. `dropped` is the
    reason why an operation left the pool, if it did.
    """

    layer: str
    operation: str
    start_error: float
    end_error: float
    peak_lr: float
    restarts: int
    dropped: str

    @classmethod
    def from_block(cls, block: BlockTraining) -> Distilled:
        return cls(
            layer=block.layer.name,
            operation=block.operation,
            start_error=block.start_error,
            end_error=block.end_error,
            peak_lr=block.peak_lr,
            restarts=block.restarts,
            dropped=block.dropped,
        )

    @property
    def pair(self) -> Pair:
        return self.layer, self.operation


def operation_path(folder: Path, layer: str, operation: str) -> Path:
    return folder / layer / f"{operation.replace('/', '_')}.safetensors"


def distill(
    teacher: nn.Module,
    pool: Sequence[tuple[Layer, str]],
    data: Data,
    folder: Path,
    settings: Distillation,
    *,
    latency_ms: Mapping[Pair, float] | None = None,
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> list[Distilled]:
    """Train the operations of `pool`, (layer, operation) pairs, and write their weights under `folder`.

    With `latency_ms` of (layer, operation), dominated operations are stopped early. Finished operations are not trained
    again; a group in training writes a checkpoint every half minute. An interrupted and repeated call has the result
    of an uninterrupted one. `on_progress` takes the share done.
    """
    results, total = whole_results(folder), len(pool) or 1
    for all_of_group in groups_of(teacher, pool, settings):
        group = [(layer, name) for layer, name in all_of_group if (layer.name, name) not in results]
        if not group:
            continue
        done = sum((layer.name, name) in results for layer, name in pool)

        def on_share(share: float, group: list[tuple[Layer, str]] = group, done: int = done) -> None:
            on_progress((done + len(group) * share) / total, f"{group[0][0].name} …")

        found = distill_group(teacher, group, data, folder, settings, latency_ms=latency_ms, on_share=on_share)
        add_results(folder, found)
        results = {**results, **{result.pair: result for result in found}}
    return [results[layer.name, name] for layer, name in pool]


def distill_group(
    teacher: nn.Module,
    group: Sequence[tuple[Layer, str]],
    data: Data,
    folder: Path,
    settings: Distillation,
    *,
    latency_ms: Mapping[Pair, float] | None = None,
    on_share: Callable[[float], None] = lambda share: None,
) -> list[Distilled]:
    """Train the operations of one group; the result depends on nothing but these arguments."""
    device = settings.compute.device
    teacher.to(device)
    split = data.train.subset(settings.images, settings.seed)
    check = data.validation.subset(CHECK_IMAGES, settings.seed)
    checkpoint = folder / f"training-{digest_of(group)}.pt"
    blocks = _start(teacher, group, split, check, latency_ms or {}, settings)
    _train_group(teacher, blocks, split, settings, checkpoint, on_share)
    _finish(teacher, blocks, check, device)
    for block in blocks:
        if not block.dropped:
            save_operation(block.module.cpu(), operation_path(folder, *block.pair))
    checkpoint.unlink(missing_ok=True)
    teacher.cpu()
    return [Distilled.from_block(block) for block in blocks]


def digest_of(group: Sequence[tuple[Layer, str]]) -> str:
    return fingerprint([(layer.name, name) for layer, name in group])


def _train_group(
    teacher: nn.Module,
    blocks: Sequence[BlockTraining],
    split: Split,
    settings: Distillation,
    checkpoint: Path,
    on_share: Callable[[float], None],
) -> None:
    """The learning-rate search, where the training is long enough for one, and the training."""
    steps = round(settings.epochs * split.steps(settings.batch_size))
    searched = steps >= MIN_TRAINING_PER_SEARCH * RATE_SEARCH_STEPS
    search_steps = len(LEARNING_RATES) * RATE_SEARCH_STEPS if searched else 0  # as many steps of the training
    total = max(search_steps + steps, 1)
    if search_steps and not has_checkpoint(checkpoint, blocks):
        search_learning_rates(
            teacher,
            blocks,
            split,
            replace(settings, seed=settings.seed + 1),
            on_step=lambda step: on_share(step * len(LEARNING_RATES) / total),
        )
    train(
        teacher,
        blocks,
        split,
        steps,
        settings,
        checkpoint=checkpoint,
        on_step=lambda step: on_share((search_steps + step) / total),
    )


def groups_of(
    teacher: nn.Module, pool: Sequence[tuple[Layer, str]], settings: Distillation
) -> list[list[tuple[Layer, str]]]:
    """Consecutive operations that are trained together: whole layers, about `group_operations`, that fit in memory.

    An operation needs its weights four times (with gradient and Adam's two moments); while it is the one being
    differentiated, its activations too, about eight times its layer's output.
    """
    groups: list[list[tuple[Layer, str]]] = []
    used, last = math.inf, ""
    for layer, name in pool:
        weights = 16 * sum(p.numel() for p in build_operation(layer, teacher, name).parameters())
        features = 4 * settings.batch_size * (math.prod(layer.input_shape) + 9 * math.prod(layer.output_shape))
        need = weights + (features if layer.name != last else 0)
        full = layer.name != last and bool(groups) and len(groups[-1]) >= settings.group_operations
        if full or used + need > settings.group_bytes:
            groups.append([])
            used, need = 0, weights + features
        groups[-1].append((layer, name))
        used, last = used + need, layer.name
    return groups


def _start(
    teacher: nn.Module,
    group: Sequence[tuple[Layer, str]],
    split: Split,
    check: Split,
    latency_ms: Mapping[Pair, float],
    settings: Distillation,
) -> list[BlockTraining]:
    """Build the group's operations, each from the layer's features where it has a closed form.

    They are built on the CPU, as everywhere else, whichever device trains them.
    """
    layers = list({layer.name: layer for layer, _ in group}.values())
    seed, device = settings.seed, settings.compute.device
    inputs = torch.cat([batch for batch, _ in split.subset(START_IMAGES, seed + 1).batches(64)])
    blocks = []
    for layer in layers:
        with captured(teacher, [layer]) as features, torch.no_grad():
            forward_until(teacher, inputs.to(device))
        layer_features = (features[layer.name][0].cpu(), features[layer.name][1].cpu())
        teacher.cpu()
        for _, name in (pair for pair in group if pair[0].name == layer.name):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                try:
                    module = build_operation(layer, teacher, name, layer_features)
                except Exception:  # a block may break its closed form in any way: it starts as profiled
                    module = build_operation(layer, teacher, name)
            expected_ms = latency_ms.get((layer.name, name), math.nan)
            blocks.append(BlockTraining(layer=layer, operation=name, module=module.to(device), latency_ms=expected_ms))
        teacher.to(device)
    errors = errors_of(teacher, blocks, check, device)
    for block in blocks:
        block.start_error = errors[block.name]
        block.started_from = copy.deepcopy(block.module.state_dict())
    return blocks


def _finish(teacher: nn.Module, blocks: list[BlockTraining], check: Split, device: str) -> None:
    """Keep the better of start and end: training may harm an operation that was solved in closed form."""
    ends = errors_of(teacher, blocks, check, device)
    for block in blocks:
        block.end_error = ends[block.name]
        if block.dropped:
            continue
        if not block.end_error <= block.start_error:
            block.module.load_state_dict(block.started_from)
            block.end_error = block.start_error
        if not math.isfinite(block.end_error):
            block.dropped = "its outputs are not finite"


def load_pool(teacher: nn.Module, pool: Sequence[tuple[Layer, str]], folder: Path) -> dict[Pair, nn.Module]:
    """The trained operations by (layer, operation).

    Raises:
        LanaError: one was not distilled in this run.
    """
    operations = {}
    for layer, name in pool:
        path = operation_path(folder, layer.name, name)
        if not path.is_file():
            raise LanaError(f"{name} at {layer.name} was not distilled: there is no {path}.")
        operations[layer.name, name] = load_operation(layer, teacher, name, path)
    return operations


def read_results(folder: Path) -> dict[Pair, Distilled]:
    """The finished results by (layer, operation)."""
    path = folder / "distilled.csv"
    rows = read_records(path, Distilled, missing=("start_error", "end_error", "peak_lr"))
    with explain_damage(path):
        return {result.pair: result for result in (Distilled(**row) for row in rows)}


def whole_results(folder: Path) -> dict[Pair, Distilled]:
    """The finished results whose weights are there."""
    results = read_results(folder)
    return {pair: one for pair, one in results.items() if one.dropped or operation_path(folder, *pair).is_file()}


def add_results(folder: Path, results: Sequence[Distilled]) -> None:
    """Add finished results to those of the folder, in the order of their names, whichever came first."""
    by_pair = {**read_results(folder), **{result.pair: result for result in results}}
    write_records(folder / "distilled.csv", (vars(result) for _, result in sorted(by_pair.items())))
