"""What a submodule is told and gives beside its one tensor where that never changes: rotary embeddings, masks, sizes.

A block that takes them is a layer like any other: what stands in its place hears of the tensor alone, and what is made
of the block itself brings them along. So is one that gives its tensor in a tuple, `(x, None)`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lana.networks.structure import flat_tensors, quiet_evaluation

_NAME = "_told_beside_its_tensor"
_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class _Place:
    number: int


@dataclass(frozen=True)
class Heard:
    """The arguments of a call with places for its tensors: the first is what changes, `tensors` are the others.

    Of one that is `repeated` for every example, `tensors` holds one.
    """

    args: Any
    kwargs: Any
    tensors: tuple[Tensor, ...]
    repeated: tuple[bool, ...]

    def is_same(self, other: Heard) -> bool:
        if (self.args, self.kwargs) != (other.args, other.kwargs):
            return False
        pairs = zip(self.tensors, other.tensors, strict=True)
        return all(a.shape == b.shape and torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


@dataclass(frozen=True)
class Told:
    """A call: what was heard, and what was given, with a place for its one tensor."""

    heard: Heard
    given: Any

    def is_same(self, other: Told) -> bool:
        return self.given == other.given and self.heard.is_same(other.heard)


Calls = Mapping[nn.Module, Told | None]


def says_more(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call says more than one tensor and what the module assumes of its own accord (mask=None)."""
    if len(args) + len(kwargs) == 1:
        return not isinstance((*args, *kwargs.values())[0], Tensor)
    signature = inspect.signature(module.forward)
    told = signature.bind(*args, **kwargs).arguments
    others = {name: value for name, value in told.items() if not isinstance(value, Tensor)}
    assumed = (isinstance(v, _PLAIN) and v == signature.parameters[name].default for name, v in others.items())
    return len(told) - len(others) != 1 or not all(assumed)


def _told(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Told | None:
    """A call that says or gives more than a tensor, kept; None for any other."""
    if isinstance(output, Tensor) and not says_more(module, args, kwargs):
        return None
    heard, given = _heard(args, kwargs), _given(output)
    return None if heard is None or given is None else Told(heard, given)


def _given(output: Any) -> Any:
    """An output with a place for its one tensor; None where there are more, or what cannot be compared."""
    tensors: list[Tensor] = []
    try:
        apart = _taken_apart(output, tensors)
    except TypeError:
        return None
    return apart if len(tensors) == 1 else None


def _heard(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Heard | None:
    """What a call says; None where no tensor is told by itself, and where something cannot be compared."""
    tensors: list[Tensor] = []
    try:
        apart = _taken_apart(args, tensors), _taken_apart(dict(kwargs), tensors)
    except TypeError:
        return None
    if _Place(0) not in (*apart[0], *apart[1].values()):  # none, or within a list
        return None
    first, *others = tensors
    repeated = tuple(_repeated(first, tensor) for tensor in others)
    pairs = zip(others, repeated, strict=True)
    return Heard(*apart, tuple((t[:1] if again else t).detach().clone() for t, again in pairs), repeated)


def _repeated(first: Tensor, other: Tensor) -> bool:
    batch = first.shape[0] if first.ndim else 1
    return batch > 1 and other.ndim > 0 and other.shape[0] == batch and torch.equal(other, other[:1].expand_as(other))


def _taken_apart(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(len(tensors) - 1)
    if type(value) in (tuple, list):
        return type(value)(_taken_apart(item, tensors) for item in value)
    if type(value) is dict:
        return {name: _taken_apart(item, tensors) for name, item in value.items()}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(type(value).__name__)


def _put_together(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, _Place):
        return tensors[value.number]
    if isinstance(value, (tuple, list)):
        return type(value)(_put_together(item, tensors) for item in value)
    if isinstance(value, dict):
        return {name: _put_together(item, tensors) for name, item in value.items()}
    return value


@contextlib.contextmanager
def watched_calls(module: nn.Module) -> Iterator[Calls]:
    """While open, a forward pass fills in what submodules are told; None where it is one tensor, where it follows from
    what has gradients, or for those that are called again."""
    found: dict[nn.Module, Told | None] = {}

    def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        follows = any(tensor.requires_grad for tensor in [*flat_tensors([args, kwargs])][1:])
        found[part] = None if part in found or follows else _told(part, args, kwargs, output)

    hooks = [part.register_forward_hook(note, with_kwargs=True) for part in module.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def bind(module: nn.Module, example: Tensor, calls: Calls) -> None:
    """Bind to submodules what they were told in `calls`, on one example, and are told on three others as well.

    That nothing of it follows from the input is seen by gradients too: values may agree by chance, as behind weights
    that are zero.
    """
    if not any(calls.values()):
        return
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    others = torch.cat([example.flip(-1), example.abs(), 3 * example])
    # What a way back would need is dropped: nobody goes back.
    dropped = torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: example)
    try:
        module.requires_grad_(False)
        with watched_calls(module) as again, quiet_evaluation(module), torch.enable_grad(), dropped:
            module(others.requires_grad_(True) * 1.0)
    except Exception:  # of other inputs, or more of them, nothing is known
        return
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    for part, told in calls.items():
        once_more = again.get(part)
        if told is not None and once_more is not None and told.is_same(once_more):
            setattr(part, _NAME, once_more)


def _bound_to(module: nn.Module) -> Told | None:
    return getattr(module, _NAME, None)


def says_what_is_bound(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call tells a module beside its tensor what is bound to it."""
    bound = _bound_to(module)
    now = _heard(args, kwargs) if bound is not None else None
    return bound is not None and now is not None and bound.heard.is_same(now)


def gives_one_tensor(module: nn.Module, output: Any) -> bool:
    """Whether an output is a tensor, or holds one as it is bound to the module."""
    bound = _bound_to(module)
    return isinstance(output, Tensor) or (bound is not None and bound.given == _given(output))


def gives_as(original: nn.Module, module: nn.Module) -> None:
    """Let a module give its tensor as `original` would: in a tuple, say."""
    bound = _bound_to(original)
    if bound is not None and not isinstance(bound.given, _Place):
        module.register_forward_hook(functools.partial(_give, bound.given))


def _give(given: Any, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Any:
    return _put_together(given, [output])


def as_given_by(original: nn.Module, tensor: Tensor) -> Any:
    """What `original` would give if this were its tensor."""
    bound = _bound_to(original)
    return tensor if bound is None else _put_together(bound.given, [tensor])


class Bound(nn.Module):
    """A submodule with what it is told beside its tensor."""

    def __init__(self, module: nn.Module, told: Told) -> None:
        super().__init__()
        heard = told.heard
        self.module, self.args, self.kwargs, self.repeated = module, heard.args, heard.kwargs, heard.repeated
        device = next((parameter.device for parameter in module.parameters()), None)
        for number, tensor in enumerate(heard.tensors, 1):
            self.register_buffer(f"told_{number}", tensor.to(device))

    def forward(self, x: Tensor) -> Tensor:
        tensors = [x]
        for tensor, repeated in zip(self.buffers(recurse=False), self.repeated, strict=True):
            tensors.append(tensor.expand(x.shape[0], *tensor.shape[1:]) if repeated else tensor)
        output = self.module(*_put_together(self.args, tensors), **_put_together(self.kwargs, tensors))
        return next(flat_tensors(output))


def with_what_it_is_told(module: nn.Module) -> nn.Module:
    """The module as one that takes and gives a tensor alone."""
    bound = _bound_to(module)
    return module if bound is None else Bound(module, bound)
