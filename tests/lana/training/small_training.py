"""A small network and the setup to tune it."""

import torch
from torch import nn

from lana.evaluation.task import Classification
from lana.training.distributed import SingleProcess
from lana.training.finetuning import TrainingSetup


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def setup_of(teacher, data, settings, cached_outputs=None, device="cpu"):
    return TrainingSetup(
        teacher=teacher,
        data=data,
        task=Classification(),
        settings=settings,
        group=SingleProcess(device),
        cached_outputs=cached_outputs,
    )
