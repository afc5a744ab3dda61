"""A worker of a group: trains a small network and keeps what it ended with, a file a process; run by torchrun."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from lana.config.options import FineTuning
from lana.data.split import Data, from_arrays
from lana.evaluation.task import Classification
from lana.training.distributed import DistributedGroup
from lana.training.finetuning import TrainingSetup, finetune

PLAIN = {"epochs": 2, "lr": 1e-2, "batch_size": 50, "precision": "fp32"}


def network(seed, *, plain=False):
    """With `plain` nothing in it depends on the other examples of a batch, or on chance."""
    torch.manual_seed(seed)
    between = [] if plain else [nn.BatchNorm1d(16), nn.Dropout(0.1)]
    return nn.Sequential(nn.Linear(6, 16), *between, nn.ReLU(), nn.Linear(16, 3))


def examples():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 6, generator=generator)
    labels = inputs[:, :3].argmax(1)
    parts = [from_arrays(inputs[i:j], labels[i:j], None) for i, j in ((0, 400), (400, 500), (500, 600))]
    return Data(train=parts[0], validation=parts[1], test=parts[2], classes=None)


class Killed(Exception):
    pass


def train(group, folder, *, plain, kill_at=2.0, **options):
    """The student's weights and the curve; with `kill_at` it is interrupted after that share of the steps."""
    student = network(1, plain=plain)

    def progress(share, _):
        if share > kill_at:
            raise Killed

    setup = TrainingSetup(
        teacher=network(0, plain=plain),
        data=examples(),
        task=Classification(),
        settings=FineTuning(**{**PLAIN, **options}),
        group=group,
    )
    curve = finetune(student, setup, checkpoint=folder / "checkpoint.pt", on_progress=progress)
    return student.state_dict(), [vars(row) for row in curve]


if __name__ == "__main__":
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    group = DistributedGroup("cpu")
    kept = {}
    for name, plain in (("plain", True), ("whole", False)):
        (folder / name).mkdir(exist_ok=True)
        kept[name] = train(group, folder / name, plain=plain, **options)
    try:
        train(group, folder, plain=False, kill_at=0.6, **options)
    except Killed:
        kept["resumed"] = train(group, folder, plain=False, **options)
    torch.save(kept, folder / f"{group.index}of{group.count}.pt")
    group.end()
