"""The optimizers of fine-tuning."""

from __future__ import annotations

import torch
from torch import nn

from lana.config.options import FineTuning


def make_optimizer(student: nn.Module, settings: FineTuning) -> torch.optim.Optimizer:
    groups = _decayed(student, settings.weight_decay)
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, fused=True)
        # The fused step needs momentum for all parameters or for none, and some gradients may come later: zeros serve.
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return optimizer
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def _decayed(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Groups of parameters: weight decay for matrices and kernels, none for biases and normalisation."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
