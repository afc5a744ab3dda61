"""A selection: the operation that replaces each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

Pair = tuple[str, str]  # layer or span, operation


class Selection(Mapping[str, str]):
    """Layer or span → the operation that replaces it; immutable, sorted and hashable.

    Layers that keep the teacher's own operation are left out, so two selections of one network are equal. The empty
    selection is the teacher.

    >>> Selection({"b": "identity", "c": "teacher", "a": "linear_k1"})
    Selection({'a': 'linear_k1', 'b': 'identity'})
    """

    __slots__ = ("_hash", "_operations")

    def __init__(self, operations: Mapping[str, str] | Iterable[Pair] = ()) -> None:
        kept = {layer: operation for layer, operation in sorted(dict(operations).items()) if operation != "teacher"}
        self._operations, self._hash = kept, hash(tuple(kept.items()))

    def __getitem__(self, layer: str) -> str:
        return self._operations[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._operations)

    def __len__(self) -> int:
        return len(self._operations)

    def __eq__(self, other: object) -> bool:
        return self._operations == (other._operations if isinstance(other, Selection) else other)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Selection({self._operations})"

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, str]]]:
        return type(self), (self._operations,)  # hashes of strings differ from process to process

    @property
    def replaced_layers(self) -> list[str]:
        """The layers without an operation of the teacher's; a span counts as its members."""
        return [member for name in self for member in name.split("+")]

    def in_full(self, layers: Iterable[str]) -> dict[str, str]:
        """The selection with the teacher's own operation at all other layers; a span has its own name."""
        replaced = set(self.replaced_layers)
        return {**{layer: "teacher" for layer in layers if layer not in replaced}, **self._operations}
