"""Pools: named presets, the text of `--pool`, and the operations that a layer is offered."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from lana.common.suggestions import near
from lana.errors import UserError
from lana.networks.layers import Layer
from lana.operations import user
from lana.operations.base import brief
from lana.operations.families import FAMILIES, Operation, family_of, names_of_family, parse_operation, split_precision

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
    return [name for family in FAMILIES for name in names_of_family(family)]


PRESETS: dict[str, Callable[[], list[str]]] = {
    "skip": list,
    "default": lambda: _DEFAULT,
    "teacher-derived": lambda: [
        name for family in FAMILIES if FAMILIES[family].derived for name in names_of_family(family)
    ],
    "lana": lambda: [name for family in FAMILIES if not FAMILIES[family].derived for name in names_of_family(family)],
    "all": _everything,
}


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
            members = PRESETS[part]() if part in PRESETS else names_of_family(part)
            names += [name for name in members if not at_span or _is_for_spans(name)]
        elif part.endswith(".py"):
            names += user.operations_in(part)
        else:
            names.append(_named(part, pool))
    every = dict.fromkeys(["teacher", "identity", *names])
    return [name for name in every if not {name, parse_operation(name).family} & left_out]


def _is_for_spans(name: str) -> bool:
    return name in _DEFAULT or FAMILIES[parse_operation(name).family].derived


def _named(part: str, pool: str) -> str:
    if split_precision(part)[1] != "fp32":
        raise UserError(f"--pool {pool!r}: {part!r} has a precision. Name it without, and give --precisions fp32,int8.")
    try:
        return parse_operation(part).name
    except UserError as error:
        raise UserError(
            f"--pool {pool!r}: {part!r} is neither a preset ({', '.join(PRESETS)}), "
            f"a family, an operation, nor a .py file.{near(part, [*PRESETS, *FAMILIES])}"
        ) from error


def offered(layer: Layer, module: nn.Module, pool: str) -> list[Operation]:
    """The operations of a pool that can replace this layer; the teacher's own always can.

    Raises:
        UserError: an unknown pool.
    """
    return [operation for operation, reason in reasons(layer, module, pool).items() if not reason]


def reasons(layer: Layer, module: nn.Module, pool: str) -> dict[Operation, str]:
    """Each operation of a pool with the reason why this layer is not offered it, empty where it is.

    Raises:
        UserError: an unknown pool.
    """
    at_span = len(layer.members) > 1
    operations = [parse_operation(name) for name in pool_names(pool, at_span=at_span)]
    if at_span:
        operations = [operation for operation in operations if operation.family not in ("teacher", "identity")]
    families = {operation.family: family_of(operation.family) for operation in operations}
    of_families = {name: _reason(family.why_not, layer, module) for name, family in families.items()}
    return {
        operation: of_families[operation.family]
        or _reason(families[operation.family].why_not_with, layer, module, dict(operation.parameters))
        for operation in operations
    }


def _reason(why_not: Callable[..., str], *arguments: object) -> str:
    try:
        return why_not(*arguments)
    except UserError:
        raise
    except Exception as error:  # a predicate runs the network's own code, which may raise anything
        return f"the test whether it applies failed: {brief(error)}"


def check_own(pool: str, layers: Iterable[tuple[Layer, nn.Module]]) -> None:
    """Build the user's own operations at every layer that they apply to.

    Raises:
        UserError: one fails, or turns a layer's shape into another.
    """
    own = ",".join(name for name in pool_names(pool) if name.startswith("user:"))
    for layer, module in layers if own else ():
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
