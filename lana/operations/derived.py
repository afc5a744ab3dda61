"""Operations that start from the teacher: its own, nothing, a linear map, low rank, no gates, fewer heads.

Channels are pruned in `lana.operations.pruning`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.networks.structure import quiet_evaluation
from lana.networks.surgery import replace
from lana.operations.base import (
    FOR_SINGLE_LAYERS,
    Branch,
    Features,
    brief,
    ends_in_relu,
    example_for,
    has_tokens,
    is_feature_map,
    is_sequence_or_volume,
    keeps_shape,
    on_feature_maps,
    once_a_structure,
    resizing,
    unless,
)
from lana.operations.closed_form import (
    LEAST_VARIANCE,
    MOST_FADED,
    RIDGE,
    LinearMap,
    is_dense,
    rows,
    solve,
    watch,
)

WORTHWHILE = 0.9  # of a map's weights: factors that hold more save nothing
SMALLEST_RANK = 8  # of a map at full rank, for factors to be worth a second kernel
EQUAL = 1e-4  # relative: two ways to compute one thing


def teacher(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's own, copied."""
    return copy.deepcopy(module)


# --- a linear map in closed form ----------------------------------------------------------------------------------


def why_not_linear(layer: Layer, module: nn.Module) -> str:
    fits = is_feature_map(layer) or is_sequence_or_volume(layer) or has_tokens(layer)
    return unless(fits, "its positions grow in number, or change in number for tokens")


def linear(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """One convolution of kernel `k` (of tokens a linear map) with the layer's last ReLU, solved by least squares."""
    tokens = has_tokens(layer) and p["k"] == 1
    return (_linear_of_tokens if tokens else _linear_of_feature_maps)(layer, module, p, features)


def _linear_of_tokens(
    layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None
) -> nn.Module:
    body, relu = nn.Linear(layer.input_shape[-1], layer.output_shape[-1]), ends_in_relu(layer, module)
    if keeps_shape(layer):
        nn.init.eye_(body.weight)
        nn.init.zeros_(body.bias)
    if features is not None:
        solve(body, *features, censored=relu)
    return Branch(body, shortcut=False, relu=relu)


@on_feature_maps
def _linear_of_feature_maps(
    layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None
) -> nn.Module:
    relu = ends_in_relu(layer, module)
    *pad, body = resizing(layer, layer.input_shape[0], layer.output_shape[0], int(p["k"]), bias=True)
    if keeps_shape(layer):
        nn.init.dirac_(body.weight)  # type: ignore[arg-type]  # a convolution's
        nn.init.zeros_(body.bias)  # type: ignore[arg-type]
    if features is not None:
        inputs, outputs = features
        solve(body, pad[0](inputs) if pad else inputs, outputs, censored=relu)  # type: ignore[arg-type]
    return Branch(nn.Sequential(*pad, body) if pad else body, shortcut=False, relu=relu)


# --- low rank -----------------------------------------------------------------------------------------------------


@once_a_structure
def _factorable(layer: Layer, module: nn.Module) -> tuple[str, ...]:
    """The maps inside that run once and are large enough to be factored."""
    names = {part: name for name, part in module.named_modules() if type(part) in get_args(LinearMap)}
    inside = [f"{name}." for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)]
    large = [part for part in names if is_dense(part) and _full_rank(part) >= SMALLEST_RANK]
    seen = watch(module, large, example_for(layer, module))
    return tuple(names[part] for part in seen if not names[part].startswith(tuple(inside)))


def why_no_layer_to_factor(layer: Layer, module: nn.Module) -> str:
    return unless(len(layer.members) == 1, FOR_SINGLE_LAYERS)


def why_not_factored(layer: Layer, module: nn.Module, p: Mapping[str, float]) -> str:
    """No map inside is smaller as two of this rank, or the block does not run with them."""
    maps = [_map(module, name) for name in _factorable(layer, module)]
    if not any(_saves(part, p["r"]) for part in maps):
        return "no convolution or linear map inside is smaller as two of this rank"
    return _why_not_run_factored(layer, module)


@once_a_structure
def _why_not_run_factored(layer: Layer, module: nn.Module) -> str:
    """Some networks read a map's weight by name, which factors do not have."""
    try:
        block = low_rank(layer, module, {"r": 1.0})
        with quiet_evaluation(block):
            shape = tuple(block(example_for(layer, module)).shape[1:])
    except Exception as error:  # the block's own code may raise anything
        return f"it does not run with factored maps: {brief(error)}"
    return unless(shape == layer.output_shape, "with factored maps it has another shape")


def low_rank(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's block with each convolution and linear map as two of a share `r` of its rank.

    The first gives what matters most of the outputs on the features (their principal components, Zhang et al. 2016),
    not of the weights alone; each map is solved for the outputs that it gave before those in front of it were factored.
    """
    block = copy.deepcopy(module).eval()
    names = [name for name in _factorable(layer, module) if p["r"] >= 1 or _saves(_map(module, name), p["r"])]
    parts = [_map(block, name) for name in names]
    before = watch(block, parts, features[0]) if features is not None else {}
    for name, part in zip(names, parts, strict=True):
        now = watch(block, [part], features[0]) if features is not None else {}
        samples = (now[part][0], before[part][1]) if part in now and part in before else None
        replace(block, name, _factored(part, p["r"], samples))
    return block.requires_grad_(True)


def _map(block: nn.Module, name: str) -> LinearMap:
    return block.get_submodule(name)  # type: ignore[return-value]  # `_factorable` checked it


def _full_rank(part: LinearMap) -> int:
    return min(part.weight.flatten(1).shape)


def _rank(part: LinearMap, share: float) -> int:
    return max(1, round(_full_rank(part) * share))


def _saves(part: LinearMap, share: float) -> bool:
    outputs, inputs = part.weight.flatten(1).shape
    return _rank(part, share) * (inputs + outputs) < WORTHWHILE * inputs * outputs


@torch.no_grad()
def _factored(part: LinearMap, share: float, features: Features | None) -> nn.Module:
    """Two maps for one; at full rank they give the same."""
    weight = part.weight.flatten(1).double()
    bias = part.bias.double() if part.bias is not None else weight.new_zeros(len(weight))
    rank = _rank(part, share)
    spread, middle = weight @ weight.T, torch.zeros_like(bias)
    if features is not None:
        columns, targets = (tensor.double() for tensor in rows(part, *features))
        mean = columns.mean(0)
        centred, missing = columns - mean, targets - columns @ weight.T - bias
        gram = centred.T @ centred
        gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-8))
        if float(missing.square().mean()) > 1e-10 * float(targets.square().mean()):
            change = torch.linalg.solve(gram, centred.T @ (missing - missing.mean(0))).T
            weight, bias = weight + change, bias + missing.mean(0) - change @ mean
        given = weight @ gram @ weight.T
        # Directions that the sample never shows count a little too, so that nothing is lost at full rank.
        spread = given / given.trace().clamp(min=1e-12) + 1e-9 * spread / spread.trace().clamp(min=1e-12)
        middle = weight @ mean
    values, vectors = torch.linalg.eigh(spread)
    basis, kept = vectors[:, -rank:], float(values[-rank:].sum() / values.sum().clamp(min=1e-12))
    up = max(1.0, LEAST_VARIANCE / max(kept, LEAST_VARIANCE / MOST_FADED)) ** 0.5
    first, second = _two_maps(part, rank)
    first.weight.copy_((basis.T @ weight).view_as(first.weight))
    second.weight.copy_((up * basis).view_as(second.weight))
    second.bias.copy_(  # type: ignore[union-attr]  # it has one
        bias + middle - up * basis @ (basis.T @ middle)
    )
    return nn.Sequential(first, second)


def _two_maps(part: LinearMap, rank: int) -> tuple[LinearMap, LinearMap]:
    where: dict[str, Any] = {"device": part.weight.device, "dtype": part.weight.dtype}
    if isinstance(part, nn.Linear):
        return nn.Linear(part.in_features, rank, bias=False, **where), nn.Linear(rank, part.out_features, **where)
    for name in ("stride", "padding", "dilation", "padding_mode"):
        where[name] = getattr(part, name)
    first = type(part)(part.in_channels, rank, part.kernel_size, bias=False, **where)  # type: ignore[arg-type]
    return first, type(part)(rank, part.out_channels, 1, device=part.weight.device, dtype=part.weight.dtype)


# --- without gates ------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """The average output of a gate: one factor a channel."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(factors.view(-1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@once_a_structure
def gates(layer: Layer, module: nn.Module) -> tuple[str, ...]:
    """Submodules that scale each channel by a factor that depends on the whole feature map, as squeeze-excite does."""
    names = {part: name for name, part in module.named_modules() if name and next(part.children(), None) is not None}
    gate_names: list[str] = []
    for part, (x, y) in watch(module, names, example_for(layer, module)).items():
        if x.ndim != 4 or x.shape != y.shape or any(names[part].startswith(f"{outer}.") for outer in gate_names):
            continue
        factors = (y / torch.where(x.abs() < 1e-3, torch.nan, x)).flatten(2)
        middle = factors.nanmedian(-1, keepdim=True).values
        even = float((factors - middle).abs().nan_to_num(0.0).max()) <= 1e-2
        varies = float((middle[0] - middle[1]).abs().nan_to_num(0.0).max()) > 1e-7
        if even and varies:
            gate_names = [name for name in gate_names if not name.startswith(f"{names[part]}.")] + [names[part]]
    return tuple(gate_names)


def why_no_gates(layer: Layer, module: nn.Module) -> str:
    if len(layer.members) > 1:
        return FOR_SINGLE_LAYERS
    return unless(bool(gates(layer, module)), "it has no squeeze-excite gate")


def no_se(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's block with its best constant factors for each squeeze-excite, folded away where possible."""
    block = copy.deepcopy(module).eval()
    folds = _folds(layer, module)
    parts = {name: block.get_submodule(name) for name in folds}
    seen = watch(block, parts.values(), features[0] if features is not None else example_for(layer, module))
    for name, part in parts.items():
        x, y = seen[part]
        _ungate(block, name, folds[name], (x * y).sum((0, 2, 3)) / x.square().sum((0, 2, 3)).clamp(min=1e-12))
    return block.requires_grad_(True)


@once_a_structure
def _folds(layer: Layer, module: nn.Module) -> dict[str, str]:
    """Gate → the module whose weights can take its factors in; an empty name where there is none."""
    inside = tuple(f"{gate}." for gate in gates(layer, module))  # these go
    maps = (nn.Conv2d, nn.BatchNorm2d)
    names = {p: name for name, p in module.named_modules() if isinstance(p, maps) and not name.startswith(inside)}
    example, folds = example_for(layer, module), {}
    for gate in gates(layer, module):
        plain = copy.deepcopy(module).eval()
        channels = watch(plain, [plain.get_submodule(gate)], example)[plain.get_submodule(gate)][0].shape[1]
        factors = torch.linspace(0.5, 1.5, channels, device=example.device)
        _ungate(plain, gate, "", factors)
        fit = (name for name in names.values() if _same_folded(module, plain, gate, name, factors, example))
        folds[gate] = next(fit, "")
    return folds


def _same_folded(module: nn.Module, plain: nn.Module, gate: str, name: str, factors: Tensor, example: Tensor) -> bool:
    into = module.get_submodule(name)
    width = into.in_channels if isinstance(into, nn.Conv2d) else into.num_features
    if width != len(factors) or (isinstance(into, nn.Conv2d) and into.groups > 1):
        return False
    folded = copy.deepcopy(module).eval()
    _ungate(folded, gate, name, factors)
    with quiet_evaluation(plain, folded):
        expected, outputs = plain(example.clone()), folded(example.clone())
    return float((expected - outputs).abs().max()) <= EQUAL * float(expected.abs().max())


@torch.no_grad()
def _ungate(block: nn.Module, gate: str, into: str, factors: Tensor) -> None:
    if not into:
        replace(block, gate, Scale(factors))
        return
    replace(block, gate, nn.Identity())
    part = block.get_submodule(into)
    if isinstance(part, nn.Conv2d):
        part.weight.mul_(factors[None, :, None, None])
    else:
        part.weight.mul_(factors)  # type: ignore[operator]  # a batch norm's
        part.bias.mul_(factors)  # type: ignore[operator]
