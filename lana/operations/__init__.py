"""The operations: what can replace a layer with its input and output shape. The table is `families.FAMILIES`."""

from lana.operations.base import Family
from lana.operations.families import FAMILIES, Operation, name_of, parse_operation
from lana.operations.presets import PRESETS, offered, pool_counts, pool_names

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
