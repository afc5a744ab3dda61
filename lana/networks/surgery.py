"""Submodules replaced in place, for good or for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lana.networks.constant_arguments import as_returned_by


def tensor_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The one tensor that a layer is called with; the other arguments equal its defaults."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def keep_attributes(original: nn.Module, replacement: nn.Module) -> None:
    """Give a replacement the plain attributes that other code may read of a block (the `f` and `i` of Ultralytics')."""
    for name, value in vars(original).items():
        if not name.startswith("_") and name != "training" and not hasattr(replacement, name) and _plain(value):
            setattr(replacement, name, value)


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


class Switch(nn.Module):
    """Stands at a submodule: runs it, or another module instead, or records what it gives and replays that.

    Code around may work in place on an output, which would spoil what is replayed next: a copy is recorded, and where
    the original was seen to change (by its version counter) every replay is a copy too.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        keep_attributes(original, self)
        self.original = original
        self.instead: nn.Module | None = None
        self.recording = False
        self._original_output: Tensor | None = None
        self._version = 0
        self._replayed: Tensor | None = None
        self._copy = False

    def record(self) -> None:
        """Keep the output of the next pass."""
        self.recording, self._replayed = True, None

    def replay(self, *, copy: bool) -> None:
        """Give what was recorded from now on, as a copy each time where asked or needed."""
        original, self._original_output, self.recording = self._original_output, None, False
        self._copy = copy or (original is not None and original._version != self._version)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._replayed is not None and not self.recording:
            return self._replayed.clone() if self._copy else self._replayed
        if self.instead is not None:
            return as_returned_by(self.original, self.instead(tensor_of(args, kwargs)))
        output = self.original(*args, **kwargs)
        if self.recording and isinstance(output, Tensor):  # anything else is computed anew each time
            self._original_output, self._version = output, output._version
            self._replayed = output.clone()
        return output


@contextlib.contextmanager
def switched(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Switch]]:
    """While open, a `Switch` replaces each named submodule; afterwards the network is as it was."""
    switches = {name: Switch(module.get_submodule(name)) for name in names}
    with installed(module, switches):
        yield switches


class Hidden(nn.Module):
    """Runs a submodule that nobody finds, neither by name nor by its class, and without the hooks that it has."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        keep_attributes(original, self)
        self.run = original.forward  # a method is no submodule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


@contextlib.contextmanager
def hidden(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """While open, each named submodule runs hidden; afterwards the network is as it was."""
    with installed(module, {name: Hidden(module.get_submodule(name)) for name in names}):
        yield


@contextlib.contextmanager
def installed(module: nn.Module, instead: Mapping[str, nn.Module]) -> Iterator[None]:
    """While open, each named submodule is replaced; afterwards the network is as it was."""
    originals = {name: module.get_submodule(name) for name in instead}
    try:
        for name, submodule in instead.items():
            replace(module, name, submodule)
        yield
    finally:
        for name, original in originals.items():
            replace(module, name, original)


def replace(module: nn.Module, name: str, submodule: nn.Module) -> None:
    """Put a submodule at a dotted path, keeping its place in the order of its siblings."""
    parent, _, last = name.rpartition(".")
    module.get_submodule(parent)._modules[last] = submodule
