"""Training mode of networks that do something else in it: a loss, a dict of losses, targets wanted, other heads."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lana.common.importing import fenced
from lana.networks.structure import quiet_evaluation

logger = logging.getLogger(__name__)

_STOCHASTIC = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
)


def trains_alike(module: nn.Module, inputs: Tensor) -> bool:
    """True where the outputs in training mode have the form and shapes of those in evaluation mode."""
    with quiet_evaluation(module):
        expected = module(inputs)
    trained = copy.deepcopy(module).train()
    try:
        with fenced(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = trained(inputs)
    except Exception:  # the network's own code: it wants targets, for example
        return False
    (ours, form), (theirs, other) = tree_flatten(found), tree_flatten(expected)
    return form == other and [*map(_shape, ours)] == [*map(_shape, theirs)]


def _shape(leaf: object) -> tuple[int, ...] | None:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None


def begin_training(module: nn.Module, *, whole: bool) -> None:
    """Training mode: of the whole network, or of its normalisation and dropout alone."""
    module.train(whole)
    if not whole:
        for part in module.modules():
            if isinstance(part, _STOCHASTIC):
                part.train()


def tell_partial(reference: str) -> None:
    logger.info(
        f"{reference} returns something else in training mode. It is tuned in evaluation mode; only its normalisation "
        "and dropout are in training mode."
    )
