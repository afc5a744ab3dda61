"""The operations: what can stand at a layer with its input and output shape. The table is `FAMILIES`.

An operation's name says all: `cb_bottle_k3_w0.5` is the family `cb_bottle` with kernel 3 and width 0.5. From the name,
the layer and the teacher's module it can be built again with the same structure, so a saved student holds names only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import nn

from lana.errors import UserError
from lana.layers import Layer
from lana.operations import convolution, derived, halved, heads, merged, pruning, tokens, user
from lana.operations.base import Build, Features, is_map, is_vector, keeps_shape, sizes
from lana.recipe import near

Parameters = Mapping[str, float]


def _always(layer: Layer, module: nn.Module, p: Parameters) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Family:
    """Operations of one kind: how one is built, where it makes sense, and the parameters that the paper's pool has.

    `applies` is asked of the family, `fits` of each operation of it. `derived` families start from the teacher's
    weights or are solved in closed form. Of a family that stands `apart`, size alone does not tell what it loses beside
    others of its latency: it is trained in addition to them.
    """

    build: Build
    applies: Callable[[Layer, nn.Module], bool]
    grid: Mapping[str, Sequence[float]]
    fits: Callable[[Layer, nn.Module, Parameters], bool] = _always
    derived: bool = False
    apart: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One entry of a pool."""

    name: str
    family: str
    parameters: tuple[tuple[str, float], ...] = ()

    def build(self, layer: Layer, module: nn.Module, features: Features | None = None) -> nn.Module:
        """A new module that stands where the teacher's `module` stands, with its input and output shape.

        The structure does not depend on `features`, (inputs, outputs) of the layer on data; with them, operations
        that have a closed form start from it. `module` is not changed and shares nothing with the result.
        """
        return family_of(self.family).build(layer, module, dict(self.parameters), features)


def _kernel_fits(layer: Layer, module: nn.Module, p: Parameters) -> bool:
    """No kernel larger than the places; vectors have no kernel at all."""
    if layer.layout in ("ntc", "ndhwc", "nc"):
        return p["k"] == 1
    return p["k"] == 1 or p["k"] <= max(sizes(layer)[1])


_KERNELS = (1, 3, 5, 7)
_WIDTHS = (1 / 16, 1 / 10, 1 / 8, 1 / 5, 1 / 4, 1 / 2, 1, 2, 3, 4)
_EXPANSIONS = {"e": (1, 3, 6), "k": (1, 3, 5), "se": (0, 0.04, 0.025)}
_TRANSFORMERS = {"d": (1, 2), "w": (32, 64, 128, 256, 512, 1024), "h": (4, 8, 16)}
_BOTTLENECKS = {"e": (1 / 4, 1 / 2, 1, 2, 3, 4)}


def _convolutions(build: Build) -> Family:
    return Family(build=build, applies=is_map, fits=_kernel_fits, grid={"k": _KERNELS, "w": _WIDTHS})


FAMILIES: dict[str, Family] = {
    # the teacher's own, and nothing: the only way to less depth
    "teacher": Family(build=derived.teacher, applies=lambda *_: True, grid={}, derived=True),
    "identity": Family(build=derived.identity, applies=keeps_shape, grid={}, derived=True),
    # from the teacher's weights
    "pruned": Family(
        build=pruning.pruned,
        applies=pruning.can_prune,
        grid={"w": tuple(sixteenths / 16 for sixteenths in range(1, 16))},
        derived=True,
    ),
    "low_rank": Family(
        build=derived.low_rank,
        applies=lambda layer, _: len(layer.members) == 1,
        fits=derived.can_factor,
        grid={"r": (0.125, 0.25, 0.375, 0.5, 0.625)},
        derived=True,
    ),
    "fewer_heads": Family(
        build=heads.fewer_heads, applies=heads.can_lose_heads, grid={"h": (0.25, 0.5, 0.75)}, derived=True
    ),
    "no_se": Family(build=derived.no_se, applies=derived.has_gates, grid={}, derived=True),
    "halved": Family(
        build=halved.halved,
        applies=halved.can_halve,
        fits=halved.fits_halved,
        grid={"w": (0.25, 0.5, 1)},
        derived=True,
        apart=True,
    ),
    # at a span, one of its blocks for all of them
    "merged": Family(build=merged.merged, applies=merged.can_merge, grid={"w": (0.25, 0.5, 1)}, derived=True),
    # one linear map, solved in closed form
    "linear": Family(
        build=derived.linear, applies=derived.can_be_linear, fits=_kernel_fits, grid={"k": (1, 3, 5)}, derived=True
    ),
    # trained from nothing; kernels, widths, depths and heads as in the paper
    "cb_stack": _convolutions(convolution.cb_stack),
    "cb_bottle": _convolutions(convolution.cb_bottle),
    "cb_res": _convolutions(convolution.cb_res),
    "repvgg": _convolutions(convolution.repvgg),
    "conv_cs": _convolutions(convolution.conv_cs),
    "efn": Family(build=convolution.efn, applies=is_map, fits=_kernel_fits, grid=_EXPANSIONS),
    "efnv2": Family(build=convolution.efnv2, applies=is_map, fits=_kernel_fits, grid=_EXPANSIONS),
    "vit": Family(build=tokens.vit, applies=tokens.attends, grid=_TRANSFORMERS),
    "bot_trans": Family(build=tokens.bot_trans, applies=tokens.attends_on_map, grid=_BOTTLENECKS),
    "lambda": Family(build=tokens.lambda_bottle, applies=tokens.attends_on_map, grid=_BOTTLENECKS),
    "mlp": Family(build=tokens.mlp, applies=is_vector, grid={"w": (0.125, 0.25, 0.5, 1)}),
}

_DEFAULT = [
    "merged_w1",
    "merged_w0.5",
    *(f"pruned_w{eighths / 8:.4g}" for eighths in range(7, 0, -1)),
    "low_rank_r0.5",
    "low_rank_r0.25",
    "halved_w1",
    "halved_w0.5",
    "fewer_heads_h0.5",
    "no_se",
    "linear_k1",
    "linear_k3",
    "cb_res_k3_w0.25",
    "cb_res_k3_w0.5",
    "cb_bottle_k3_w0.25",
    "cb_bottle_k3_w0.5",
    "efn_e1_k3_se0",
    "efn_e3_k3_se0",
    "mlp_w0.25",
    "mlp_w0.5",
]


def _everything() -> list[str]:
    return [name for family in FAMILIES for name in _grid(family)]


PRESETS: dict[str, Callable[[], list[str]]] = {
    "skip": list,
    "default": lambda: _DEFAULT,
    "teacher-derived": lambda: [name for family in FAMILIES if FAMILIES[family].derived for name in _grid(family)],
    "lana": lambda: [name for family in FAMILIES if not FAMILIES[family].derived for name in _grid(family)],
    "all": _everything,
}


def _grid(family: str) -> list[str]:
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
        UserError: no family of this name, or other parameters than it has.

    >>> parse_operation("cb_bottle_k3_w0.5").parameters
    (('k', 3.0), ('w', 0.5))
    """
    if name.startswith("user:"):  # whatever the function is called, it takes no parameters
        if name not in user.FAMILIES:
            user.load(name)
        if name not in user.FAMILIES:
            raise UserError(f"There is no operation {name!r} in its file.")
        return Operation(name=name, family=name, parameters=())
    match = re.fullmatch(r"(?P<family>.*?)(?P<parameters>(?:_[a-z]+[0-9][0-9.]*)*)", name)
    family = match["family"] if match else name
    if family not in FAMILIES:
        raise UserError(f"There is no operation {name!r}.{near(family, list(FAMILIES))}")
    found = re.findall(r"_([a-z]+)([0-9][0-9.]*)", match["parameters"] if match else "")
    parameters = tuple((key, float(value)) for key, value in found)
    if [key for key, _ in parameters] != list(family_of(family).grid):
        wanted = "".join(f"_{key}…" for key in family_of(family).grid)
        raise UserError(f"The operation {name!r} is not complete: expected {family}{wanted}.")
    return Operation(name=name, family=family, parameters=parameters)


def pool_names(pool: str, *, at_span: bool = False) -> list[str]:
    """The operations of a pool: names of presets, families and operations, and .py files, separated by commas.

    A family or an operation with a minus before it is left out. At a span a preset or a family gives of the operations
    that are trained from nothing only those of the default pool: there are several times as many spans as layers, and
    few of a span's operations are kept.

    Raises:
        UserError: an unknown name, or a file without operations.

    >>> pool_names("identity,linear_k1,linear_k3,-linear_k3")
    ['teacher', 'identity', 'linear_k1']
    """
    names: list[str] = []
    left_out: set[str] = set()
    if not pool.strip(" ,"):
        raise UserError(f"--pool {pool!r} names no operation. Leave it out for the default pool, or see: lana pool")
    for part in filter(None, (part.strip() for part in pool.split(","))):
        if part.startswith("-") and part != "-teacher":
            left_out.add(part[1:] if part[1:] in FAMILIES else _named(part[1:], pool))
        elif part in PRESETS or part in FAMILIES:
            given = PRESETS[part]() if part in PRESETS else _grid(part)
            names += [name for name in given if not at_span or _stands_for_several(name)]
        elif part.endswith(".py"):
            names += user.operations_in(part)
        else:
            names.append(_named(part, pool))
    every = dict.fromkeys(["teacher", "identity", *names])
    return [name for name in every if not {name, parse_operation(name).family} & left_out]


def _stands_for_several(name: str) -> bool:
    return name in _DEFAULT or FAMILIES[parse_operation(name).family].derived


def _named(part: str, pool: str) -> str:
    try:
        return parse_operation(part).name
    except UserError as error:
        raise UserError(
            f"--pool {pool!r}: {part!r} is neither a preset ({', '.join(PRESETS)}), "
            f"a family, an operation, nor a .py file.{near(part, [*PRESETS, *FAMILIES])}"
        ) from error


def offered(layer: Layer, module: nn.Module, pool: str) -> list[Operation]:
    """The operations of a pool that can stand at this layer; the teacher's own always can.

    Raises:
        UserError: an unknown pool.
    """
    at_span = len(layer.members) > 1
    operations = [parse_operation(name) for name in pool_names(pool, at_span=at_span)]
    if at_span:
        operations = [operation for operation in operations if operation.family not in ("teacher", "identity")]
    families = {operation.family: family_of(operation.family) for operation in operations}
    here = {name for name, family in families.items() if _stands(family.applies, layer, module)}
    return [
        operation
        for operation in operations
        if operation.family in here
        and _stands(families[operation.family].fits, layer, module, dict(operation.parameters))
    ]


def _stands(asked: Callable[..., bool], *place: object) -> bool:
    """Whether a family stands here; one that fails to say so on a module that nobody foresaw does not."""
    try:
        return asked(*place)
    except UserError:
        raise
    except Exception:
        return False


def check_own(pool: str, places: Iterable[tuple[Layer, nn.Module]]) -> None:
    """Build the user's own operations at every layer where they want to stand.

    Raises:
        UserError: one fails, or turns a layer's shape into another.
    """
    own = ",".join(name for name in pool_names(pool) if name.startswith("user:"))
    for layer, module in places if own else ():
        for operation in offered(layer, module, own):
            if operation.family.startswith("user:"):
                operation.build(layer, module)


def pool_counts(pool: str) -> dict[str, int]:
    """How many operations of each family a pool holds."""
    counts: dict[str, int] = {}
    for name in pool_names(pool):
        family = parse_operation(name).family
        counts[family] = counts.get(family, 0) + 1
    return counts


__all__ = [
    "FAMILIES",
    "PRESETS",
    "Family",
    "Operation",
    "name_of",
    "offered",
    "parse_operation",
    "pool_counts",
    "pool_names",
]
