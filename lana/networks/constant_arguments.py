"""Constant call arguments: the unchanging values that a submodule takes and returns in addition to its one tensor.

Rotary embeddings, masks and sizes are such arguments. A block that takes them is a layer like any other: its
replacement takes the tensor alone, and an operation made of the block itself keeps the arguments. So is a block that
returns its tensor in a tuple, `(x, None)`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lana.networks.structure import flat_tensors, quiet_evaluation

_PLAIN = (type(None), bool, int, float, str)

Template = Any  # nested arguments or outputs with the class `Tensor` where a tensor belongs


@dataclass(frozen=True)
class ConstantArguments:
    """The arguments of a call as a template: its first tensor changes, and `tensors` holds the others.

    A tensor that is `repeated` for every example is held once.
    """

    template: Template
    tensors: tuple[Tensor, ...]
    repeated: tuple[bool, ...]

    def is_same(self, other: ConstantArguments) -> bool:
        if self.template != other.template:
            return False
        pairs = zip(self.tensors, other.tensors, strict=True)
        return all(a.shape == b.shape and torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


@dataclass(frozen=True)
class ConstantCall:
    """A call: its arguments, and its output as a template with one tensor."""

    arguments: ConstantArguments
    output: Template

    def is_same(self, other: ConstantCall) -> bool:
        return self.output == other.output and self.arguments.is_same(other.arguments)


Calls = Mapping[nn.Module, ConstantCall | None]

_CALLS: WeakKeyDictionary[nn.Module, ConstantCall] = WeakKeyDictionary()  # submodule → the call that never changes


def has_other_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True if a call has other arguments than one tensor and the module's own defaults (mask=None)."""
    if len(args) + len(kwargs) == 1:
        return not isinstance((*args, *kwargs.values())[0], Tensor)
    signature = inspect.signature(module.forward)
    arguments = signature.bind(*args, **kwargs).arguments
    others = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
    defaults = (isinstance(v, _PLAIN) and v == signature.parameters[name].default for name, v in others.items())
    return len(arguments) - len(others) != 1 or not all(defaults)


def _call_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> ConstantCall | None:
    """A call that takes or returns more than a tensor; None for any other."""
    if isinstance(output, Tensor) and not has_other_arguments(module, args, kwargs):
        return None
    arguments, template = _arguments_of(args, kwargs), _output_template(output)
    return None if arguments is None or template is None else ConstantCall(arguments, template)


def _output_template(output: Any) -> Template | None:
    """An output with a place for its one tensor; None where it has more, or parts that cannot be compared."""
    template = _template(output)
    return template if template is not None and _leaves(template).count(Tensor) == 1 else None


def _arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ConstantArguments | None:
    """The arguments of a call; None where no tensor is one by itself, and where some cannot be compared."""
    template = _template((args, dict(kwargs)))
    with_tensors = (value for value in (*args, *kwargs.values()) if next(flat_tensors(value), None) is not None)
    first = next(with_tensors, None)
    if template is None or not isinstance(first, Tensor):
        return None
    others = [leaf for leaf in _leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)][1:]
    repeated = tuple(_is_repeated(first, tensor) for tensor in others)
    pairs = zip(others, repeated, strict=True)
    return ConstantArguments(template, tuple((t[:1] if once else t).detach().clone() for t, once in pairs), repeated)


def _is_repeated(first: Tensor, other: Tensor) -> bool:
    batch = first.shape[0] if first.ndim else 1
    return batch > 1 and other.ndim > 0 and other.shape[0] == batch and torch.equal(other, other[:1].expand_as(other))


def _is_leaf(value: Any) -> bool:
    return type(value) not in (tuple, list, dict)  # no subclasses: their equality may be anything


def _leaves(value: Any) -> list[Any]:
    return tree_leaves(value, is_leaf=_is_leaf)


def _template(value: Any) -> Template | None:
    """Nested values with `Tensor` for every tensor; None where others than plain values are among them."""
    if not all(isinstance(leaf, (Tensor, *_PLAIN)) for leaf in _leaves(value)):
        return None
    return tree_map(lambda leaf: Tensor if isinstance(leaf, Tensor) else leaf, value, is_leaf=_is_leaf)


def _filled(template: Template, tensors: Sequence[Tensor]) -> Any:
    remaining = iter(tensors)
    return tree_map(lambda leaf: next(remaining) if leaf is Tensor else leaf, template, is_leaf=_is_leaf)


@contextlib.contextmanager
def observed_calls(module: nn.Module) -> Iterator[Calls]:
    """While open, a forward pass fills in the calls of submodules.

    The entry is None for a call of one tensor alone, for arguments that carry gradients, and for submodules called
    again.
    """
    calls: dict[nn.Module, ConstantCall | None] = {}

    def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        follows = any(tensor.requires_grad for tensor in [*flat_tensors([args, kwargs])][1:])
        calls[part] = None if part in calls or follows else _call_of(part, args, kwargs, output)

    hooks = [part.register_forward_hook(note, with_kwargs=True) for part in module.modules()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def keep_constant_arguments(module: nn.Module, example: Tensor, calls: Calls) -> None:
    """Keep the `calls` of submodules on one example that are the same on three others as well.

    Gradients, too, show that an argument follows from the input: values may agree by chance, as behind weights that are
    zero.
    """
    if not any(calls.values()):
        return
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    others = torch.cat([example.flip(-1), example.abs(), 3 * example])
    # Nobody goes back, so what a way back would need is dropped.
    dropped = torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: example)
    try:
        module.requires_grad_(False)
        with observed_calls(module) as again, quiet_evaluation(module), torch.enable_grad(), dropped:
            module(others.requires_grad_(True) * 1.0)
    except Exception:  # the network's own code may raise anything on other inputs, or more of them; then none are kept
        return
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    for part, call in calls.items():
        once_more = again.get(part)
        if call is not None and once_more is not None and call.is_same(once_more):
            _CALLS[part] = once_more


def copy_with_constant_arguments(module: nn.Module) -> nn.Module:
    """A deep copy whose submodules have the constant arguments of the originals."""
    copied = copy.deepcopy(module)
    parts = dict(copied.named_modules())
    for name, part in module.named_modules():
        if part in _CALLS and name in parts:
            _CALLS[parts[name]] = _CALLS[part]
    return copied


def has_constant_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True if the arguments of a call, except its tensor, are the constant ones of the module."""
    call = _CALLS.get(module)
    now = _arguments_of(args, kwargs) if call is not None else None
    return call is not None and now is not None and call.arguments.is_same(now)


def returns_one_tensor(module: nn.Module, output: Any) -> bool:
    """True if an output is a tensor, or holds one as the module's constant call does."""
    call = _CALLS.get(module)
    return isinstance(output, Tensor) or (call is not None and call.output == _output_template(output))


def return_as(original: nn.Module, module: nn.Module) -> None:
    """Let a module return its tensor as `original` would, e.g. in a tuple."""
    call = _CALLS.get(original)
    if call is not None and call.output is not Tensor:
        module.register_forward_hook(functools.partial(_fill_output, call.output))


def _fill_output(template: Template, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Any:
    return _filled(template, [output])


def as_returned_by(original: nn.Module, tensor: Tensor) -> Any:
    """The output of `original` if this were its tensor."""
    call = _CALLS.get(original)
    return tensor if call is None else _filled(call.output, [tensor])


class WithConstantArguments(nn.Module):
    """A submodule with its constant arguments: takes and returns one tensor."""

    def __init__(self, module: nn.Module, call: ConstantCall) -> None:
        super().__init__()
        self.module, self.call = module, call
        device = next((parameter.device for parameter in module.parameters()), None)
        for number, tensor in enumerate(call.arguments.tensors, 1):
            self.register_buffer(f"told_{number}", tensor.to(device))  # saved students hold this name

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or one read back, has the constant arguments too."""
        super().__setstate__(state)
        _CALLS[self.module] = self.call

    def forward(self, x: Tensor) -> Tensor:
        tensors = [x]
        for tensor, repeated in zip(self.buffers(recurse=False), self.call.arguments.repeated, strict=True):
            tensors.append(tensor.expand(x.shape[0], *tensor.shape[1:]) if repeated else tensor)
        args, kwargs = _filled(self.call.arguments.template, tensors)
        return next(flat_tensors(self.module(*args, **kwargs)))


def of_one_tensor(module: nn.Module) -> nn.Module:
    """The module as one that takes and returns a tensor alone."""
    call = _CALLS.get(module)
    return module if call is None else WithConstantArguments(module, call)
