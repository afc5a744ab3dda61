"""Train every operation to imitate its layer: one teacher pass feeds many operations.

The loss is the mean squared error normalised by the target's power (Puzzle, section 3; the paper has it without the
normalisation), on the teacher's own input features, so the problems are independent of each other.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.data import Data, Split
from lana.errors import LanaError
from lana.features import captured, forward_until
from lana.layers import Layer
from lana.run import write
from lana.schedule import learning_rate
from lana.student import build_operation, load_operation, save_operation

START_IMAGES = 256  # whose features the closed-form starts are solved on
CHECK_IMAGES = 256  # of the validation part, on which start and end are compared
PEAK_LR = {"derived": 1e-3, "scratch": 4e-3}
CHECKPOINT_EVERY_S = 30.0
GROUP_BYTES = 2 << 30


@dataclass(kw_only=True, eq=False)
class Job:
    """One operation in training at one layer."""

    layer: Layer
    operation: str
    module: nn.Module
    peak_lr: float
    start_error: float = math.nan
    end_error: float = math.nan
    restarts: int = 0
    dropped: str = ""
    started_from: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.layer.name}/{self.operation}"


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """How well an operation imitates its layer on images that it was not trained on.

    Errors are normalised by the target's power: 0 is perfect, 1 is as bad as giving zeros. `dropped` says why an
    operation is not offered any more, where that is so.
    """

    layer: str
    operation: str
    start_error: float
    end_error: float
    peak_lr: float
    restarts: int
    dropped: str


def normalised_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the mean square of the target.

    >>> float(normalised_error(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])))  # (0 + 4) / (1 + 1)
    2.0
    """
    return (output - target).square().mean() / target.square().mean().clamp(min=1e-12)


def operation_path(folder: Path, layer: str, operation: str) -> Path:
    return folder / layer / f"{operation.replace('/', '_')}.safetensors"


def distill(
    teacher: nn.Module,
    pool: Sequence[tuple[Layer, str]],
    data: Data,
    folder: Path,
    *,
    epochs: float = 2.0,
    images: int = 10_000,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    group_bytes: int = GROUP_BYTES,
    on_progress: Callable[[float, str], None] = lambda done, detail: None,
) -> list[Distilled]:
    """Train the operations of `pool`, (layer, operation) pairs, and write their weights under `folder`.

    Operations whose file exists are not trained again; a group in training is checkpointed every half minute. The
    result of an interrupted and repeated call is that of an uninterrupted one. `on_progress` takes the share done.
    """
    results: dict[tuple[str, str], Distilled] = _read_results(folder)
    waiting = [(layer, name) for layer, name in pool if (layer.name, name) not in results]
    train, check = data.train.take(images, seed), data.validation.take(CHECK_IMAGES, seed)
    steps = round(epochs * train.steps(batch_size))
    total = len(pool) or 1
    for group in _groups(teacher, waiting, batch_size, group_bytes):
        done = len(results)
        jobs = _start(teacher, group, train, check, seed=seed, device=device)

        def share(step: int, jobs: list[Job] = jobs, done: int = done) -> None:
            on_progress((done + len(jobs) * step / max(steps, 1)) / total, f"{jobs[0].layer.name} …")

        _train(
            teacher,
            jobs,
            train,
            folder / "training.pt",
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            device=device,
            on_step=share,
        )
        _finish(teacher, jobs, check, device)
        for job in jobs:
            save_operation(job.module.cpu(), operation_path(folder, job.layer.name, job.operation))
            result = Distilled(
                layer=job.layer.name,
                operation=job.operation,
                start_error=job.start_error,
                end_error=job.end_error,
                peak_lr=job.peak_lr,
                restarts=job.restarts,
                dropped=job.dropped,
            )
            results[job.layer.name, job.operation] = result
        _write_results(folder, results)
        (folder / "training.pt").unlink(missing_ok=True)
    return [results[layer.name, name] for layer, name in pool]


def _groups(
    teacher: nn.Module, pool: Sequence[tuple[Layer, str]], batch_size: int, group_bytes: int
) -> list[list[tuple[Layer, str]]]:
    """Consecutive operations that are trained together: as many as fit in memory.

    An operation needs its weights four times (with gradient and Adam's two moments); while it is the one being
    differentiated, its activations too, about eight times its layer's output.
    """
    groups: list[list[tuple[Layer, str]]] = []
    used, last = math.inf, ""
    for layer, name in pool:
        parameters = sum(p.numel() for p in build_operation(layer, teacher, name).parameters())
        features = (
            0
            if layer.name == last
            else 4 * batch_size * (math.prod(layer.input_shape) + 9 * math.prod(layer.output_shape))
        )
        need = 16 * parameters + features
        if used + need > group_bytes:
            groups.append([])
            used = 0
        groups[-1].append((layer, name))
        used, last = used + need, layer.name
    return groups


def _layers(jobs: Sequence[Job] | Sequence[tuple[Layer, str]]) -> list[Layer]:
    layers = [job.layer if isinstance(job, Job) else job[0] for job in jobs]
    return list({layer.name: layer for layer in layers}.values())


def _start(
    teacher: nn.Module,
    group: Sequence[tuple[Layer, str]],
    train: Split,
    check: Split,
    *,
    seed: int,
    device: str,
) -> list[Job]:
    """Build the group's operations, each from the layer's features where it has a closed form."""
    jobs = []
    inputs = torch.cat([batch for batch, _ in train.take(START_IMAGES, seed + 1).batches(64, device=device)])
    for layer in _layers(group):
        with captured(teacher, [layer]) as features, torch.no_grad():
            forward_until(teacher, inputs)
        for _, name in (pair for pair in group if pair[0].name == layer.name):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = build_operation(layer, teacher, name, features[layer.name]).to(device)
            jobs.append(Job(layer=layer, operation=name, module=module, peak_lr=0.0))
    errors = _errors(teacher, jobs, check, device)
    for job in jobs:
        job.start_error = errors[job.name]
        # What starts near its target is to be refined, not to be thrown about.
        job.peak_lr = PEAK_LR["derived" if job.start_error < 0.3 else "scratch"]
        job.started_from = copy.deepcopy(job.module.state_dict())
    return jobs


def _errors(teacher: nn.Module, jobs: Sequence[Job], split: Split, device: str) -> dict[str, float]:
    """Each operation's normalised error over a split, in evaluation mode."""
    sums = {job.name: 0.0 for job in jobs}
    power = {layer.name: 0.0 for layer in _layers(jobs)}
    for job in jobs:
        job.module.eval()
    with torch.no_grad(), captured(teacher, _layers(jobs)) as features:
        for inputs, _ in split.batches(128, device=device):
            features.clear()
            forward_until(teacher, inputs)
            for name, (_, target) in features.items():
                power[name] += float(target.square().sum())
            for job in jobs:
                source, target = features[job.layer.name]
                sums[job.name] += float((job.module(source.clone()) - target).square().sum())
    return {job.name: sums[job.name] / max(power[job.layer.name], 1e-12) for job in jobs}


def _train(
    teacher: nn.Module,
    jobs: list[Job],
    train: Split,
    checkpoint: Path,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    device: str,
    on_step: Callable[[int], None],
) -> None:
    """Train all jobs at once: one pass of the teacher a step, one optimiser with a group of parameters a job."""
    trained = [job for job in jobs if any(p.requires_grad for p in job.module.parameters())]
    if not trained or not steps:
        return
    groups = [{"params": [p for p in job.module.parameters() if p.requires_grad]} for job in trained]
    optimiser = torch.optim.Adam(groups, lr=0.0)
    first = _resume(checkpoint, trained, optimiser)
    saved_s = time.monotonic()
    epoch_steps = train.steps(batch_size)
    batches: Iterator[tuple[Tensor, Tensor]] = iter(())
    with captured(teacher, _layers(trained)) as features:
        for step in range(first, steps):
            if step == first or step % epoch_steps == 0:
                batches = train.epoch(batch_size, seed=seed * 1000 + step // epoch_steps, augment=True, device=device)
                for _ in range(step % epoch_steps if step == first else 0):
                    next(batches)
            inputs, _ = next(batches)
            features.clear()
            with torch.no_grad():
                forward_until(teacher, inputs)
            for job, group in zip(trained, optimiser.param_groups, strict=True):
                group["lr"] = learning_rate(step, steps, job.peak_lr)
                if job.dropped:
                    continue
                source, target = features[job.layer.name]
                loss = normalised_error(job.module.train()(source.clone()), target)
                if not loss.item() <= 100 * max(job.start_error, 0.1):  # nan and infinity too
                    _restart(job, optimiser)
                    continue
                loss.backward()
                nn.utils.clip_grad_norm_(group["params"], 1.0)
            optimiser.step()
            optimiser.zero_grad()
            on_step(step + 1)
            if time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                _checkpoint(checkpoint, trained, optimiser, step + 1)
                saved_s = time.monotonic()


def _restart(job: Job, optimiser: torch.optim.Optimizer) -> None:
    """Begin a diverging operation again at a quarter of the rate; give it up at the third time."""
    job.restarts += 1
    job.module.load_state_dict(job.started_from)
    for parameter in job.module.parameters():
        optimiser.state.pop(parameter, None)
        parameter.grad = None
    job.peak_lr /= 4
    if job.restarts > 2:
        job.dropped = "its training diverged three times"


def _checkpoint(path: Path, jobs: list[Job], optimiser: torch.optim.Optimizer, step: int) -> None:
    memory = io.BytesIO()
    state = {
        "step": step,
        "names": [job.name for job in jobs],
        "modules": [job.module.state_dict() for job in jobs],
        "jobs": [(job.peak_lr, job.restarts, job.dropped) for job in jobs],
        "optimiser": optimiser.state_dict(),
    }
    torch.save(state, memory)
    write(path, lambda beside: beside.write_bytes(memory.getvalue()))


def _resume(path: Path, jobs: list[Job], optimiser: torch.optim.Optimizer) -> int:
    """Continue a killed training of the same jobs; the step to begin with."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    if state["names"] != [job.name for job in jobs]:
        return 0
    for job, module, (peak_lr, restarts, dropped) in zip(jobs, state["modules"], state["jobs"], strict=True):
        job.module.load_state_dict(module)
        job.peak_lr, job.restarts, job.dropped = peak_lr, restarts, dropped
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


def _finish(teacher: nn.Module, jobs: list[Job], check: Split, device: str) -> None:
    """Keep the better of start and end: training may harm an operation that was solved in closed form."""
    ends = _errors(teacher, jobs, check, device)
    for job in jobs:
        job.end_error = ends[job.name]
        if job.dropped:
            continue
        if not job.end_error <= job.start_error:
            job.module.load_state_dict(job.started_from)
            job.end_error = job.start_error
        if not math.isfinite(job.end_error):
            job.dropped = "its outputs are not finite"


def load_pool(teacher: nn.Module, pool: Sequence[tuple[Layer, str]], folder: Path) -> dict[tuple[str, str], nn.Module]:
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


def _read_results(folder: Path) -> dict[tuple[str, str], Distilled]:
    import pandas as pd

    path = folder / "distilled.csv"
    if not path.is_file():
        return {}
    text = {"layer": str, "operation": str}
    frame = pd.read_csv(path, keep_default_na=False, na_values=["nan"], dtype=text)
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    return {(row["layer"], row["operation"]): Distilled(**row) for row in rows}


def _write_results(folder: Path, results: dict[tuple[str, str], Distilled]) -> None:
    import pandas as pd

    frame = pd.DataFrame([vars(result) for result in results.values()])
    write(folder / "distilled.csv", lambda beside: frame.to_csv(beside, index=False, na_rep="nan"))
