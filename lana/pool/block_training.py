"""Block-wise distillation: one pass of the teacher a step gives every operation in training its input and target."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lana.common.files import save_torch
from lana.data.split import Split
from lana.models.selection import Pair
from lana.networks.features import captured, forward_until
from lana.networks.layers import Layer
from lana.networks.mixed_precision import Compute
from lana.networks.onednn_workaround import strides_as_slices
from lana.training.schedule import learning_rate

CHECKPOINT_EVERY_S = 30.0
CLIP_NORM = 1.0
FIRST_STEPS = 10  # while the learning rate warms up
RATE_SEARCH_STEPS = 12  # of each learning rate that is tried
LEARNING_RATES = (5e-4, 4e-3, 1.6e-2)
DOMINANCE_CHECKS = (0.25, 0.5)  # shares of the training, after which dominated operations are stopped
DOMINANCE_RATIOS = (1.5, 1.2)  # at these checks: the loss of a dominated operation to that of a better one
CONVERGED_RATIO = 0.97  # of the loss in the first steps: above it an operation has converged, and is frozen
CONVERGED_MIN_STEPS = 40  # a running mean over ten steps is too noisy before


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How operations are trained: passes over the images, the most images in all and a step, the seed, the device.

    A group, which is trained together, ends with the layer at which it has `group_operations`, or at `group_bytes`.
    """

    epochs: float = 2.0
    images: int = 10_000
    batch_size: int = 64
    seed: int = 0
    group_operations: int = 1_000_000
    group_bytes: int = 2 << 30
    compute: Compute


@dataclass(kw_only=True, eq=False)
class BlockTraining:
    """The block-wise distillation of one operation at one layer.

    `latency_ms` and `skip_error` (the error of skipping the layer, infinite where it cannot be skipped) decide whether
    the training is stopped early. `loss` is a running mean.
    """

    layer: Layer
    operation: str
    module: nn.Module
    peak_lr: float = LEARNING_RATES[1]
    latency_ms: float = math.nan
    skip_error: float = math.inf
    start_error: float = math.nan
    end_error: float = math.nan
    loss: float = math.nan
    first_loss: float = math.nan
    converged: bool = False
    restarts: int = 0
    dropped: str = ""
    works_in_place: bool = False
    started_from: dict[str, Tensor] = field(default_factory=dict)

    @property
    def pair(self) -> Pair:
        return self.layer.name, self.operation

    @property
    def name(self) -> str:
        return f"{self.layer.name}/{self.operation}"

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]


def layers_of(blocks: Sequence[BlockTraining]) -> list[Layer]:
    return list({block.layer.name: block.layer for block in blocks}.values())


def power(target: Tensor) -> Tensor:
    """The mean square, which normalises errors."""
    return target.float().square().mean().clamp(min=1e-12)


def errors_of(teacher: nn.Module, blocks: Sequence[BlockTraining], split: Split, device: str) -> dict[str, float]:
    """Each operation's normalised error over a split, in evaluation mode.

    Sets which of the blocks work in place, and the error of skipping their layers.
    """
    sums = {block.name: 0.0 for block in blocks}
    skips = {layer.name: 0.0 for layer in layers_of(blocks)}
    powers = {layer.name: 0.0 for layer in layers_of(blocks)}
    for block in blocks:
        block.module.eval()
    with torch.no_grad(), captured(teacher, layers_of(blocks)) as features:
        for inputs, _ in split.batches(128, device=device):
            features.clear()
            forward_until(teacher, inputs)
            for name, (source, target) in features.items():
                powers[name] += float(target.square().sum())
                skips[name] += float((source - target).square().sum()) if source.shape == target.shape else math.inf
            for block in blocks:
                source, target = features[block.layer.name]
                block_inputs = source.clone()
                sums[block.name] += float((block.module(block_inputs) - target).square().sum())
                block.works_in_place |= block_inputs._version > 0
    for block in blocks:
        block.skip_error = skips[block.layer.name] / max(powers[block.layer.name], 1e-12)
    return {block.name: sums[block.name] / max(powers[block.layer.name], 1e-12) for block in blocks}


def search_learning_rates(
    teacher: nn.Module,
    blocks: Sequence[BlockTraining],
    split: Split,
    settings: Distillation,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Set each block's peak rate to the one, of three, that lowers its loss most in a short training."""
    trials = [
        BlockTraining(
            layer=block.layer,
            operation=f"{block.operation} {rate}",
            module=copy.deepcopy(block.module),
            peak_lr=rate,
            start_error=block.start_error,
            works_in_place=block.works_in_place,
            started_from=block.started_from,
        )
        for block in blocks
        for rate in LEARNING_RATES
    ]
    train(teacher, trials, split, RATE_SEARCH_STEPS, settings, on_step=on_step)
    for index, block in enumerate(blocks):
        tried = trials[len(LEARNING_RATES) * index : len(LEARNING_RATES) * (index + 1)]
        finished = [e for e in tried if not e.restarts and math.isfinite(e.loss)]
        block.peak_lr = min(finished, key=lambda e: e.loss).peak_lr if finished else min(e.peak_lr for e in tried)


def train(
    teacher: nn.Module,
    blocks: Sequence[BlockTraining],
    split: Split,
    steps: int,
    settings: Distillation,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train all blocks at once: one pass of the teacher a step, one optimizer with a group of parameters a block.

    A diverging block starts again at a lower rate, and is dropped the third time. A block that another of its layer
    dominates is stopped. The same call resumes from `checkpoint` and ends with the same weights.
    """
    trained, compute, seed = [block for block in blocks if block.parameters], settings.compute, settings.seed
    if not trained or not steps:
        return
    optimizer = torch.optim.Adam([{"params": block.parameters} for block in trained], lr=0.0, fused=True)
    first = _resume(checkpoint, trained, optimizer) if checkpoint else 0
    saved_s, checks = time.monotonic(), [round(share * steps) for share in DOMINANCE_CHECKS] if checkpoint else []
    batches = _batches(split, settings, first)
    modules = [block.module for block in trained]
    laid_out = compute.channels_last([teacher, *modules])
    with strides_as_slices(modules), laid_out, captured(teacher, layers_of(trained)) as features:
        for step in range(first, steps):
            if step in checks:
                stop_dominated(trained, DOMINANCE_RATIOS[checks.index(step)])
                _freeze_converged(trained, step)
            inputs = next(batches)
            torch.manual_seed(seed * 1_000_003 + step)  # dropout: a step draws the same numbers when resumed
            features.clear()
            with torch.no_grad(), compute.autocast():
                forward_until(teacher, inputs)
            powers = {name: float(power(target)) for name, (_, target) in features.items()}
            for block, group in zip(trained, optimizer.param_groups, strict=True):
                if block.dropped or block.converged:
                    continue
                group["lr"] = learning_rate(step, steps, block.peak_lr)
                if not _backward(block, features[block.layer.name], powers[block.layer.name], compute):
                    _restart(block, optimizer)
                    continue
                block.first_loss = block.loss if step < FIRST_STEPS else block.first_loss
                nn.utils.clip_grad_norm_(group["params"], CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            on_step(step + 1)
            if checkpoint and time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                _checkpoint(checkpoint, trained, optimizer, step + 1)
                saved_s = time.monotonic()


def _backward(block: BlockTraining, features: tuple[Tensor, Tensor], power: float, compute: Compute) -> bool:
    """The gradient of the normalised squared error of a layer's (input, output); false where the block diverges."""
    source, target = features
    with compute.autocast():
        output = block.module.train()(source.clone() if block.works_in_place else source)
    difference = output.detach() - target.to(output.dtype)
    scale = power * difference.numel()
    value = float(torch.linalg.vector_norm(difference, dtype=torch.float32)) ** 2 / scale
    if not value <= 100 * max(block.start_error, 0.1):  # nan and infinity too
        return False
    block.loss = value if math.isnan(block.loss) else 0.9 * block.loss + 0.1 * value
    output.backward(difference.mul_(2 / scale))  # torch's own gradient of the loss would lose the channels-last order
    return True


def _batches(split: Split, settings: Distillation, first: int) -> Iterator[Tensor]:
    """Augmented inputs from step `first` on, epoch after epoch."""
    batch_size, seed, device = settings.batch_size, settings.seed, settings.compute.device
    epoch, skipped = divmod(first, split.steps(batch_size))
    while True:
        for index, (inputs, _) in enumerate(
            split.epoch(batch_size, seed=seed * 1000 + epoch, augment=True, device=device)
        ):
            if index >= skipped:
                yield inputs
        epoch, skipped = epoch + 1, 0


def stop_dominated(blocks: Sequence[BlockTraining], ratio: float) -> None:
    """Drop operations that cannot pay off.

    An operation is dropped if one of its layer is at least as fast and its loss lower by `ratio`. It is also dropped if
    its loss exceeds the error of skipping the layer by `ratio`.
    """
    running = [block for block in blocks if not block.dropped]
    for block in running:
        rivals = [
            other
            for other in running
            if other.layer.name == block.layer.name
            and other is not block
            and other.latency_ms <= block.latency_ms
            and other.loss * ratio < block.loss
        ]
        if rivals:
            best = min(rivals, key=lambda other: other.loss)
            block.dropped = (
                f"stopped early: {best.operation} is no slower and learns better ({best.loss:.3g} to {block.loss:.3g})"
            )
        elif block.skip_error * ratio < block.loss:
            block.dropped = (
                f"stopped early: skipping the layer has a lower error ({block.skip_error:.3g} to {block.loss:.3g})"
            )


def _freeze_converged(blocks: Sequence[BlockTraining], step: int) -> None:
    """Freeze the blocks whose loss has hardly fallen since the first steps: they are at their optimum."""
    for block in blocks:
        block.converged |= step >= CONVERGED_MIN_STEPS and block.loss > CONVERGED_RATIO * block.first_loss


def _restart(block: BlockTraining, optimizer: torch.optim.Optimizer) -> None:
    """Start a diverging operation again at a quarter of the rate; drop it the third time."""
    block.restarts += 1
    block.module.load_state_dict(block.started_from)
    for parameter in block.module.parameters():
        optimizer.state.pop(parameter, None)
        parameter.grad = None
    block.peak_lr /= 4
    block.loss = math.nan
    if block.restarts > 2:
        block.dropped = "its training diverged three times"


def _checkpoint(path: Path, blocks: Sequence[BlockTraining], optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {
        "step": step,
        "names": [block.name for block in blocks],
        "modules": [block.module.state_dict() for block in blocks],
        "blocks": [
            (block.peak_lr, block.loss, block.first_loss, block.converged, block.restarts, block.dropped)
            for block in blocks
        ],
        "optimizer": optimizer.state_dict(),
    }
    save_torch(path, state)


def has_checkpoint(path: Path, blocks: Sequence[BlockTraining]) -> bool:
    """True where the checkpoint is of these blocks."""
    trained = [block.name for block in blocks if block.parameters]
    return path.is_file() and torch.load(path, map_location="cpu", weights_only=True)["names"] == trained


def _resume(path: Path, blocks: Sequence[BlockTraining], optimizer: torch.optim.Optimizer) -> int:
    """Resume a killed training of the same blocks; return the first step."""
    if not has_checkpoint(path, blocks):
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for block, module, values in zip(blocks, state["modules"], state["blocks"], strict=True):
        block.module.load_state_dict(module)
        block.peak_lr, block.loss, block.first_loss, block.converged, block.restarts, block.dropped = values
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
