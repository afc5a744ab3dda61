"""A network as its author wrote it: without wrappers, compiled calls and weights that are computed from others."""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_HELD_AS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # by other wrappers


def wrapped(module: nn.Module) -> nn.Module | None:
    """The network inside a wrapper; None where the module is none."""
    if isinstance(module, _WRAPPERS):
        inner: nn.Module = module.module
        return inner
    return next((module._modules[name] for name in _HELD_AS if name in module._modules), None)


def unwrap_parts(module: nn.Module) -> None:
    """Take wrappers inside of a network away, in place, and what torch.compile made of its calls.

    Each process would compile anew, and a copy's compiled method would run the weights of the original.
    """
    for part in list(module.modules()):
        for name, child in list(part._modules.items()):
            while child is not None and (inner := wrapped(child)) is not None:
                part._modules[name] = child = inner
    for part in module.modules():
        if part._compiled_call_impl is not None:
            part._compiled_call_impl = None
        own = [kind for kind in type(part).__mro__ if kind.__module__.partition(".")[0] not in ("torch", "builtins")]
        for holder in (part, *own):
            for name, value in list(vars(holder).items()):
                if (original := _before_compiling(value)) is not None:
                    setattr(holder, name, original)


def _before_compiling(value: Any) -> Any:
    """The function that torch.compile was given; None for every other value."""
    compiled = isinstance(value, (FunctionType, MethodType)) and not getattr(value, "_torchdynamo_disable", False)
    return getattr(value, "_torchdynamo_orig_callable", None) if compiled else None


def compute_weights(module: nn.Module) -> None:
    """Put plain weights, as they are in evaluation mode, in place of those that are computed from others.

    These are parametrisations, weight and spectral norms, and masks of pruning. What replaces, prunes or copies a layer
    knows plain weights only.
    """
    module.eval()
    with torch.no_grad():
        found = [
            (part, name, sources, getattr(part, name).detach().clone())
            for part in module.modules()
            if parametrize.is_parametrized(part)
            for name, sources in part.parametrizations.items()  # type: ignore[union-attr, operator]
        ]
    made: dict[int, nn.Parameter] = {}  # by what a weight was computed from: two layers may share it
    for part, name, sources, value in found:
        alone = hasattr(sources, "original")
        source = sources.original if alone else sources.original0
        # Left as it was, for a layer without the parametrisation may share it; several sources cannot be.
        parametrize.remove_parametrizations(part, name, leave_parametrized=not alone)
        if not isinstance(source, nn.Parameter):
            setattr(part, name, value)
            continue
        shared = made.get(id(source))
        if shared is None or not torch.equal(shared, value):
            shared = made[id(source)] = nn.Parameter(value, requires_grad=source.requires_grad)
        setattr(part, name, shared)
    for part in module.modules():
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(part, hook._tensor_name)
