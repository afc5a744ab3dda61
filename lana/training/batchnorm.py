"""Re-estimate BatchNorm statistics of a network whose layers were replaced."""

from __future__ import annotations

import torch
from torch import nn

from lana.data.split import Split
from lana.networks.mixed_precision import CPU_FP32, Compute

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def reestimate_batchnorm(
    module: nn.Module,
    split: Split,
    *,
    images: int = 2000,
    batch_size: int = 200,
    compute: Compute = CPU_FP32,
) -> int:
    """Replace every running mean and variance by the average over training images; returns the number of layers.

    Inputs behind a replaced layer have other statistics than in the teacher's training. The average over batches is
    cumulative (momentum None): the earlier values do not count.
    """
    norms = [m for m in module.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    if not norms:
        return 0
    before = [(norm.momentum, norm.training) for norm in norms]
    module.to(compute.device).eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    with torch.no_grad(), compute.channels_last([module]), compute.autocast():
        for inputs, _ in split.subset(images).epoch(batch_size, seed=0, device=compute.device):
            module(inputs)
    for norm, (momentum, training) in zip(norms, before, strict=True):
        norm.momentum, norm.training = momentum, training
    return len(norms)
