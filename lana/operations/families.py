"""The table of operation families, and operations by their names.

The name `cb_bottle_k3_w0.5` is the family `cb_bottle` with kernel 3 and width 0.5. An operation can be built again from
its name, the layer and the teacher's module, with the same structure. A saved student holds names only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import nn

from lana.common.suggestions import near
from lana.errors import UserError
from lana.networks.layers import Layer
from lana.operations import convolution, derived, halved, heads, merged, pruning, shortcut, tokens, user
from lana.operations.base import (
    Build,
    Family,
    Features,
    Parameters,
    always,
    sizes,
    unless,
    why_no_feature_map,
    why_no_tokens,
)

PRECISIONS: Sequence[str] = ("fp32", "int8")  # an operation's file may hold these


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One entry of a pool; its precision is fp32, or the suffix of its name after "@"."""

    name: str
    family: str
    parameters: tuple[tuple[str, float], ...] = ()
    precision: str = "fp32"

    def build(self, layer: Layer, module: nn.Module, features: Features | None = None) -> nn.Module:
        """A new module to replace the teacher's `module`, with its input and output shape.

        The structure does not depend on `features`, (inputs, outputs) of the layer on data; with them, operations
        that have a closed form start from it. `module` is not changed and shares nothing with the result.
        """
        return family_of(self.family).build(layer, module, dict(self.parameters), features)


def _why_not_kernel(layer: Layer, module: nn.Module, p: Parameters) -> str:
    if layer.layout in ("ntc", "ndhwc", "nc"):
        return unless(p["k"] == 1, "tokens take a kernel of 1 only")
    return unless(p["k"] == 1 or p["k"] <= max(sizes(layer)[1]), "the kernel is larger than the output")


_KERNELS = (1, 3, 5, 7)

_WIDTHS = (1 / 16, 1 / 10, 1 / 8, 1 / 5, 1 / 4, 1 / 2, 1, 2, 3, 4)

_EXPANSIONS = {"e": (1, 3, 6), "k": (1, 3, 5), "se": (0, 0.04, 0.025)}

_TRANSFORMERS = {"d": (1, 2), "w": (32, 64, 128, 256, 512, 1024), "h": (4, 8, 16)}

_BOTTLENECKS = {"e": (1 / 4, 1 / 2, 1, 2, 3, 4)}


def _convolutions(build: Build) -> Family:
    return _with_kernel(build, {"k": _KERNELS, "w": _WIDTHS})


def _with_kernel(build: Build, grid: Mapping[str, Sequence[float]]) -> Family:
    return Family(build=build, why_not=why_no_feature_map, why_not_with=_why_not_kernel, grid=grid)


FAMILIES: dict[str, Family] = {
    # the teacher's own, and nothing: the only way to less depth
    "teacher": Family(build=derived.teacher, why_not=always, grid={}, derived=True),
    "identity": Family(
        build=shortcut.identity,
        why_not=shortcut.why_no_identity,
        grid={},
        derived=True,
    ),
    # from the teacher's weights
    "pruned": Family(
        build=pruning.pruned,
        why_not=pruning.why_not_pruned,
        grid={"w": tuple(sixteenths / 16 for sixteenths in range(1, 16))},
        derived=True,
    ),
    "low_rank": Family(
        build=derived.low_rank,
        why_not=derived.why_no_layer_to_factor,
        why_not_with=derived.why_not_factored,
        grid={"r": (0.125, 0.25, 0.375, 0.5, 0.625)},
        derived=True,
    ),
    "fewer_heads": Family(
        build=heads.fewer_heads, why_not=heads.why_not_fewer_heads, grid={"h": (0.25, 0.5, 0.75)}, derived=True
    ),
    "no_se": Family(build=derived.no_se, why_not=derived.why_no_gates, grid={}, derived=True),
    "halved": Family(
        build=halved.halved,
        why_not=halved.why_not_halved,
        why_not_with=halved.why_not_halved_with,
        grid={"w": (0.25, 0.5, 1)},
        derived=True,
        own_quota=True,
    ),
    # at a span, one of its blocks for all of them
    "merged": Family(build=merged.merged, why_not=merged.why_not_merged, grid={"w": (0.25, 0.5, 1)}, derived=True),
    # one linear map, solved in closed form
    "linear": Family(
        build=derived.linear,
        why_not=derived.why_not_linear,
        why_not_with=_why_not_kernel,
        grid={"k": (1, 3, 5)},
        derived=True,
    ),
    # trained from nothing; kernels, widths, depths and heads as in the paper
    "cb_stack": _convolutions(convolution.cb_stack),
    "cb_bottle": _convolutions(convolution.cb_bottle),
    "cb_res": _convolutions(convolution.cb_res),
    "repvgg": _convolutions(convolution.repvgg),
    "conv_cs": _convolutions(convolution.conv_cs),
    "efn": _with_kernel(convolution.efn, _EXPANSIONS),
    "efnv2": _with_kernel(convolution.efnv2, _EXPANSIONS),
    "vit": Family(build=tokens.vit, why_not=tokens.why_no_attention, grid=_TRANSFORMERS),
    "bot_trans": Family(build=tokens.bot_trans, why_not=tokens.why_no_attention_on_feature_map, grid=_BOTTLENECKS),
    "lambda": Family(build=tokens.lambda_bottle, why_not=tokens.why_no_attention_on_feature_map, grid=_BOTTLENECKS),
    "mlp": Family(build=tokens.mlp, why_not=why_no_tokens, grid={"w": (0.125, 0.25, 0.5, 1)}),
}


def names_of_family(family: str) -> list[str]:
    grid = FAMILIES[family].grid
    return [name_of(family, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]


def name_of(family: str, parameters: Parameters) -> str:
    """The name that `parse_operation` reads.

    >>> name_of("cb_bottle", {"k": 3, "w": 0.5})
    'cb_bottle_k3_w0.5'
    """
    return family + "".join(f"_{key}{value:.4g}" for key, value in parameters.items())


def family_of(name: str) -> Family:
    return user.FAMILIES.get(name) or FAMILIES[name]


@cache
def parse_operation(name: str) -> Operation:
    """The operation of this name.

    Raises:
        UserError: no family of this name, other parameters than it has, or a precision that there is not.

    >>> parse_operation("cb_bottle_k3_w0.5").parameters
    (('k', 3.0), ('w', 0.5))
    >>> parse_operation("cb_bottle_k3_w0.5").precision
    'fp32'
    """
    name, precision = split_precision(name)
    suffix = "" if precision == "fp32" else f"@{precision}"
    if name.startswith("user:"):  # whatever the function is called, it takes no parameters
        if name not in user.FAMILIES:
            user.load(name)
        if name not in user.FAMILIES:
            raise UserError(f"There is no operation {name!r} in its file.")
        return Operation(name=name + suffix, family=name, parameters=(), precision=precision)
    match = re.fullmatch(r"(?P<family>.*?)(?P<parameters>(?:_[a-z]+[0-9][0-9.]*)*)", name)
    family = match["family"] if match else name
    if family not in FAMILIES:
        raise UserError(f"There is no operation {name!r}.{near(family, list(FAMILIES))}")
    pairs = re.findall(r"_([a-z]+)([0-9][0-9.]*)", match["parameters"] if match else "")
    grid = family_of(family).grid
    if [key for key, _ in pairs] != list(grid):
        pattern = "".join(f"_{key}…" for key in grid)
        raise UserError(f"The operation {name!r} is not complete: expected {family}{pattern}.")
    parameters = tuple((key, _parameter(name, key, value, grid[key])) for key, value in pairs)
    return Operation(name=name + suffix, family=family, parameters=parameters, precision=precision)


def _parameter(name: str, key: str, text: str, usual: Sequence[float]) -> float:
    """A parameter of an operation, within reach of the usual ones: a share at most 1, and whole where they are.

    Raises:
        UserError: it is none.
    """
    most = 1.0 if max(usual) <= 1 else 4.0 * max(usual)
    try:
        value = float(text)
    except ValueError:  # 0.5.5
        value = 0.0
    if not (0 < value <= most or value in usual) or (
        all(float(one).is_integer() for one in usual) and not value.is_integer()
    ):
        values = ", ".join(f"{one:g}" for one in usual[:4])
        raise UserError(f"The operation {name!r} has {key} {text[:20]}: expected a number like {values}.")
    return value


def at_precision(name: str, precision: str) -> str:
    """The name of an operation at another precision.

    >>> at_precision("pruned_w0.5", "int8"), at_precision("pruned_w0.5@int8", "fp32")
    ('pruned_w0.5@int8', 'pruned_w0.5')
    """
    base = split_precision(name)[0]
    return base if precision == "fp32" else f"{base}@{precision}"


def split_precision(name: str) -> tuple[str, str]:
    """The name of an operation without the suffix of its precision, and the precision.

    Raises:
        UserError: there is no such precision.

    >>> split_precision("linear_k1"), split_precision("linear_k1@fp32")
    (('linear_k1', 'fp32'), ('linear_k1', 'fp32'))
    """
    match = re.fullmatch(r"(.+)@(\w+)", name)  # a path may hold an "@" too, but then more than a word follows it
    operation, precision = (match[1], match[2]) if match else (name, "fp32")
    if precision not in PRECISIONS:
        raise UserError(f"The operation {name!r} asks for {precision}. The precisions are: {', '.join(PRECISIONS)}.")
    return operation, precision
