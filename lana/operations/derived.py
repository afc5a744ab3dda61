"""Operations that start from the teacher: pruned copies with its weights, and linear maps in closed form."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lana.layers import Layer
from lana.operations.base import Branch, Features, ends_in_relu, example_of, is_map, keeps_shape, stride_of
from lana.structure import quiet_evaluation

RIDGE = 1e-3  # of the mean variance of the inputs: keeps closed forms stable where channels go together
CHANNEL_STEP = 8  # pruned widths are rounded to whole vectors; odd widths run slower than wider ones
SAMPLED_ROWS = 20_000  # places of the feature maps that a closed form is solved on


def teacher(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's own, copied."""
    return copy.deepcopy(module)


def identity(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """Nothing: the layer is skipped."""
    return nn.Identity()


# --- a linear map in closed form ----------------------------------------------------------------------------------


def can_be_linear(layer: Layer, module: nn.Module) -> bool:
    return is_map(layer)


def linear(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """One `k`×`k` convolution with bias (and the layer's last ReLU), solved by least squares on the features."""
    kernel, relu = int(p["k"]), ends_in_relu(layer, module)
    body = nn.Conv2d(layer.input_shape[0], layer.output_shape[0], kernel, stride_of(layer), kernel // 2)
    if keeps_shape(layer):
        nn.init.dirac_(body.weight)
        nn.init.zeros_(body.bias)  # type: ignore[arg-type]
    if features is not None:
        inputs, outputs = features
        solve_convolution(body, inputs, outputs, censored=relu)
    return Branch(body, shortcut=False, relu=relu)


@torch.no_grad()
def solve_convolution(module: nn.Conv2d, inputs: Tensor, outputs: Tensor, *, censored: bool = False) -> None:
    """Set weight and bias to the ridge solution of outputs ≈ module(inputs), on a sample of places.

    `censored` outputs come from behind a ReLU: where they are zero, whatever the map gives below zero is right, so
    the target there is its own prediction; two rounds of that are near the fixed point.
    """
    columns, targets = _rows(module, inputs, outputs)
    mean = columns.mean(0)
    centred = columns - mean
    gram = centred.T @ centred
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-8))
    aim = targets
    for _ in range(3 if censored else 1):
        weight = torch.linalg.solve(gram, centred.T @ (aim - aim.mean(0)))
        bias = aim.mean(0) - mean @ weight
        if censored:
            predicted = columns @ weight + bias
            aim = torch.where(targets > 0, targets, predicted.clamp(max=0))
    module.weight.copy_(weight.T.view_as(module.weight))
    if module.bias is not None:
        module.bias.copy_(bias)


def _rows(module: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """A sample of places as rows: what the kernel sees there, and the outputs there."""
    places = outputs.shape[2] * outputs.shape[3]
    images = max(1, min(len(inputs), SAMPLED_ROWS // min(places, 64)))
    chosen = torch.randperm(places, generator=torch.Generator().manual_seed(0))[:64].to(inputs.device)
    unfolded = F.unfold(inputs[:images], module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    columns = unfolded[:, :, chosen].transpose(1, 2).flatten(0, 1)
    return columns, outputs[:images].flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)


# --- structured pruning inside the block --------------------------------------------------------------------------


def can_prune(layer: Layer, module: nn.Module) -> bool:
    """Whether there are channels inside that neither input nor output fixes."""
    if len(layer.members) > 1:
        return False
    try:
        return next(_inner_groups(layer, copy.deepcopy(module)), None) is not None
    except Exception:  # a block that the dependency graph cannot follow is not pruned
        return False


def pruned(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's block with a share `w` of its inner channels.

    On features, the channels are kept that contribute most to what consumes them, and the consuming convolutions
    are solved again so that they give what they gave with all channels (as in channel pruning, He et al. 2017).
    """
    block = copy.deepcopy(module).eval()
    if p["w"] >= 1:
        return block
    before = _consumer_outputs(block, features[0]) if features is not None else {}
    widths = {part: part.in_channels for part in _consumers(block)}
    contributions = _contributions(block, features[0]) if features is not None else {}
    for group, channels in list(_inner_groups(layer, block)):
        keep = min(channels, max(CHANNEL_STEP, round(channels * p["w"] / CHANNEL_STEP) * CHANNEL_STEP))
        order = _importance(group, channels, contributions).argsort().tolist()
        _prune(block, group, order[: channels - keep], example_of(layer))
    if features is not None:
        _reconstruct(block, features[0], before, widths)
    for parameter in block.parameters():
        parameter.requires_grad_(True)
    return block


def _graph(block: nn.Module, example: Tensor) -> Any:
    import torch_pruning

    device = next(block.parameters()).device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            return torch_pruning.DependencyGraph().build_dependency(block, example_inputs=example.to(device))
        finally:
            logging.disable(logging.NOTSET)


def _inner_groups(layer: Layer, block: nn.Module) -> Iterator[tuple[Any, int]]:
    """Groups of channels that can be removed together while the block still fits its layer, with their size.

    Whether a group is an inner one is tried on a copy: a block without half of an outer group does not run, or
    gives another shape.
    """
    import torch_pruning

    with torch.enable_grad():
        graph = _graph(block, example_of(layer))
    names = {part: name for name, part in block.named_modules()}
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        channels = len(group[0].idxs)
        root = group[0].dep.target.module
        if channels < 2 * CHANNEL_STEP or root not in names:
            continue
        trial = copy.deepcopy(block)
        try:
            with torch.enable_grad():
                tried = _graph(trial, example_of(layer)).get_pruning_group(
                    trial.get_submodule(names[root]), torch_pruning.prune_conv_out_channels
                    if isinstance(root, nn.Conv2d) else torch_pruning.prune_linear_out_channels,
                    list(range(CHANNEL_STEP)),
                )  # fmt: skip
                tried.prune()
            with quiet_evaluation(trial):
                fits = (
                    tuple(trial(example_of(layer).to(next(trial.parameters()).device)).shape[1:]) == layer.output_shape
                )
        except Exception:  # pruning an outer group breaks the copy in whatever way: it is not an inner one
            fits = False
        if fits:
            yield group, channels


def _prune(block: nn.Module, group: Any, indices: list[int], example: Tensor) -> None:
    """Remove channels, by a graph made anew, since an earlier group changed the block."""
    if not indices:
        return
    root, function = group[0].dep.target.module, group[0].dep.handler
    with torch.enable_grad():
        _graph(block, example).get_pruning_group(root, function, sorted(indices)).prune()


def _importance(group: Any, channels: int, contributions: Mapping[nn.Module, Tensor]) -> Tensor:
    """What each channel of a group adds to the layers that consume it; by weights alone without data."""
    total = torch.zeros(channels)
    for dependency, indices in group:
        target = dependency.target.module
        consumes = "in_channels" in dependency.handler.__name__
        if not consumes or not isinstance(target, (nn.Conv2d, nn.Linear)) or len(indices) != channels:
            continue
        weight = target.weight.detach().transpose(0, 1).flatten(1).square().sum(1).cpu()
        total += weight * contributions.get(target, torch.ones(len(weight))).cpu()
    return total


def _consumers(block: nn.Module) -> list[nn.Conv2d]:
    return [part for part in block.modules() if isinstance(part, nn.Conv2d) and part.groups == 1]


@torch.no_grad()
def _contributions(block: nn.Module, inputs: Tensor) -> dict[nn.Module, Tensor]:
    """The mean square of each input channel of each dense convolution."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [
        part.register_forward_pre_hook(lambda m, args: found.__setitem__(m, args[0].square().mean((0, 2, 3))))
        for part in _consumers(block)
    ]
    _run(block, inputs, hooks)
    return found


@torch.no_grad()
def _consumer_outputs(block: nn.Module, inputs: Tensor) -> dict[nn.Module, Tensor]:
    """What each dense convolution gives with all channels."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [
        part.register_forward_hook(lambda m, _, out: found.__setitem__(m, out.clone())) for part in _consumers(block)
    ]
    _run(block, inputs, hooks)
    return found


def _run(block: nn.Module, inputs: Tensor, hooks: list[Any]) -> None:
    try:
        with quiet_evaluation(block):
            block(inputs.clone())
    finally:
        for hook in hooks:
            hook.remove()


def _reconstruct(
    block: nn.Module, inputs: Tensor, before: Mapping[nn.Module, Tensor], widths: Mapping[nn.Conv2d, int]
) -> None:
    """Solve each convolution that lost input channels, in order, for the outputs that it gave before."""
    for part in _consumers(block):
        target = before.get(part)
        if target is None or target.shape[1] != part.out_channels or part.in_channels == widths[part]:
            continue
        seen: list[Tensor] = []
        hook = part.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
        _run(block, inputs, [hook])
        solve_convolution(part, seen[0], target)
