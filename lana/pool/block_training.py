"""The loop of distilling: one pass of the teacher a step, from which every operation in training takes its part."""

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
RACE_STEPS = 12  # of each learning rate that is tried
RACE_RATES = (5e-4, 4e-3, 1.6e-2)
JUDGED_AT = (0.25, 0.5)  # shares of the training at which dominated operations are stopped
CLEARLY = (1.5, 1.2)  # how much larger the loss of a dominated one must be then
SETTLED = 0.97  # of the loss in the first steps: what is above it then is at its optimum (closed forms are) and rests
SETTLED_FROM = 40  # steps: sooner a running mean over some ten says little of where it goes


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How operations are trained: passes over the images, how many images at most and a step, the seed, and where."""

    epochs: float = 2.0
    images: int = 10_000
    batch_size: int = 64
    seed: int = 0
    compute: Compute


@dataclass(kw_only=True, eq=False)
class Job:
    """One operation in training at one layer.

    `latency_ms` and `skip_error` (what skipping the layer would give; infinite where it cannot be skipped) say
    whether it can still become worth having. `loss` is a running mean.
    """

    layer: Layer
    operation: str
    module: nn.Module
    peak_lr: float = RACE_RATES[1]
    latency_ms: float = math.nan
    skip_error: float = math.inf
    start_error: float = math.nan
    end_error: float = math.nan
    loss: float = math.nan
    first_loss: float = math.nan
    settled: bool = False
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


def layers_of(jobs: Sequence[Job]) -> list[Layer]:
    return list({job.layer.name: job.layer for job in jobs}.values())


def power(target: Tensor) -> Tensor:
    """Mean square, what errors are normalised by."""
    return target.float().square().mean().clamp(min=1e-12)


def errors_of(teacher: nn.Module, jobs: Sequence[Job], split: Split, device: str) -> dict[str, float]:
    """Each operation's normalised error over a split, in evaluation mode.

    Notes in the jobs which of them work in place, and the error of skipping their layers.
    """
    sums = {job.name: 0.0 for job in jobs}
    skips = {layer.name: 0.0 for layer in layers_of(jobs)}
    powers = {layer.name: 0.0 for layer in layers_of(jobs)}
    for job in jobs:
        job.module.eval()
    with torch.no_grad(), captured(teacher, layers_of(jobs)) as features:
        for inputs, _ in split.batches(128, device=device):
            features.clear()
            forward_until(teacher, inputs)
            for name, (source, target) in features.items():
                powers[name] += float(target.square().sum())
                skips[name] += float((source - target).square().sum()) if source.shape == target.shape else math.inf
            for job in jobs:
                source, target = features[job.layer.name]
                given = source.clone()
                sums[job.name] += float((job.module(given) - target).square().sum())
                job.works_in_place |= given._version > 0
    for job in jobs:
        job.skip_error = skips[job.layer.name] / max(powers[job.layer.name], 1e-12)
    return {job.name: sums[job.name] / max(powers[job.layer.name], 1e-12) for job in jobs}


def find_rates(
    teacher: nn.Module,
    jobs: Sequence[Job],
    split: Split,
    settings: Distillation,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Set each job's peak rate to the one, of three, that lowers its loss most in a short race."""
    entrants = [
        Job(
            layer=job.layer,
            operation=f"{job.operation} {rate}",
            module=copy.deepcopy(job.module),
            peak_lr=rate,
            start_error=job.start_error,
            works_in_place=job.works_in_place,
            started_from=job.started_from,
        )
        for job in jobs
        for rate in RACE_RATES
    ]
    train(teacher, entrants, split, RACE_STEPS, settings, on_step=on_step)
    for index, job in enumerate(jobs):
        tried = entrants[len(RACE_RATES) * index : len(RACE_RATES) * (index + 1)]
        finished = [e for e in tried if not e.restarts and math.isfinite(e.loss)]
        job.peak_lr = min(finished, key=lambda e: e.loss).peak_lr if finished else min(e.peak_lr for e in tried)


def train(
    teacher: nn.Module,
    jobs: Sequence[Job],
    split: Split,
    steps: int,
    settings: Distillation,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train all jobs at once: one pass of the teacher a step, one optimiser with a group of parameters a job.

    A diverging job begins again at a lower rate and is given up at the third time; one that another of its layer
    dominates is stopped. Interrupted and called again, it goes on from `checkpoint` and ends with the same weights.
    """
    trained, compute, seed = [job for job in jobs if job.parameters], settings.compute, settings.seed
    if not trained or not steps:
        return
    optimiser = torch.optim.Adam([{"params": job.parameters} for job in trained], lr=0.0, fused=True)
    first = _resume(checkpoint, trained, optimiser) if checkpoint else 0
    saved_s, judged = time.monotonic(), [round(share * steps) for share in JUDGED_AT] if checkpoint else []
    batches = _batches(split, settings, first)
    modules = [job.module for job in trained]
    laid_out = compute.channels_last([teacher, *modules])
    with strides_as_slices(modules), laid_out, captured(teacher, layers_of(trained)) as features:
        for step in range(first, steps):
            if step in judged:
                stop_dominated(trained, CLEARLY[judged.index(step)])
                _rest_settled(trained, step)
            inputs = next(batches)
            torch.manual_seed(seed * 1_000_003 + step)  # dropout: a step draws the same numbers when resumed
            features.clear()
            with torch.no_grad(), compute.autocast():
                forward_until(teacher, inputs)
            powers = {name: float(power(target)) for name, (_, target) in features.items()}
            for job, group in zip(trained, optimiser.param_groups, strict=True):
                if job.dropped or job.settled:
                    continue
                group["lr"] = learning_rate(step, steps, job.peak_lr)
                if not _backward(job, features[job.layer.name], powers[job.layer.name], compute):
                    _restart(job, optimiser)
                    continue
                job.first_loss = job.loss if step < FIRST_STEPS else job.first_loss
                nn.utils.clip_grad_norm_(group["params"], CLIP_NORM)
            optimiser.step()
            optimiser.zero_grad()
            on_step(step + 1)
            if checkpoint and time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                _checkpoint(checkpoint, trained, optimiser, step + 1)
                saved_s = time.monotonic()


def _backward(job: Job, features: tuple[Tensor, Tensor], power: float, compute: Compute) -> bool:
    """The gradient of the normalised squared error of a layer's (input, output); false where the job diverges."""
    source, target = features
    with compute.autocast():
        output = job.module.train()(source.clone() if job.works_in_place else source)
    difference = output.detach() - target.to(output.dtype)
    scale = power * difference.numel()
    value = float(torch.linalg.vector_norm(difference, dtype=torch.float32)) ** 2 / scale
    if not value <= 100 * max(job.start_error, 0.1):  # nan and infinity too
        return False
    job.loss = value if math.isnan(job.loss) else 0.9 * job.loss + 0.1 * value
    output.backward(difference.mul_(2 / scale))  # by hand: torch's own gradient loses the channels-last order
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


def stop_dominated(jobs: Sequence[Job], clearly: float) -> None:
    """Give up what cannot be worth having: an operation no faster than another of its layer that imitates it clearly
    better so far, or one that imitates its layer clearly worse than skipping it does."""
    running = [job for job in jobs if not job.dropped]
    for job in running:
        rivals = [
            other
            for other in running
            if other.layer.name == job.layer.name
            and other is not job
            and other.latency_ms <= job.latency_ms
            and other.loss * clearly < job.loss
        ]
        if rivals:
            best = min(rivals, key=lambda other: other.loss)
            job.dropped = (
                f"stopped early: {best.operation} is no slower and imitates better ({best.loss:.3g} to {job.loss:.3g})"
            )
        elif job.skip_error * clearly < job.loss:
            job.dropped = (
                f"stopped early: skipping the layer imitates it better ({job.skip_error:.3g} to {job.loss:.3g})"
            )


def _rest_settled(jobs: Sequence[Job], step: int) -> None:
    """Rest the jobs whose loss has hardly fallen since the first steps: they are at their optimum."""
    for job in jobs:
        job.settled |= step >= SETTLED_FROM and job.loss > SETTLED * job.first_loss


def _restart(job: Job, optimiser: torch.optim.Optimizer) -> None:
    """Begin a diverging operation again at a quarter of the rate; give it up at the third time."""
    job.restarts += 1
    job.module.load_state_dict(job.started_from)
    for parameter in job.module.parameters():
        optimiser.state.pop(parameter, None)
        parameter.grad = None
    job.peak_lr /= 4
    job.loss = math.nan
    if job.restarts > 2:
        job.dropped = "its training diverged three times"


def _checkpoint(path: Path, jobs: Sequence[Job], optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {
        "step": step,
        "names": [job.name for job in jobs],
        "modules": [job.module.state_dict() for job in jobs],
        "jobs": [(job.peak_lr, job.loss, job.first_loss, job.settled, job.restarts, job.dropped) for job in jobs],
        "optimiser": optimiser.state_dict(),
    }
    save_torch(path, state)


def begun(path: Path, jobs: Sequence[Job]) -> bool:
    """Whether the checkpoint is of these jobs."""
    trained = [job.name for job in jobs if job.parameters]
    return path.is_file() and torch.load(path, map_location="cpu", weights_only=True)["names"] == trained


def _resume(path: Path, jobs: Sequence[Job], optimiser: torch.optim.Optimizer) -> int:
    """Continue a killed training of the same jobs; the step to begin with."""
    if not begun(path, jobs):
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for job, module, values in zip(jobs, state["modules"], state["jobs"], strict=True):
        job.module.load_state_dict(module)
        job.peak_lr, job.loss, job.first_loss, job.settled, job.restarts, job.dropped = values
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]
