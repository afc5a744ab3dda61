"""The structure that decides a module's speed: a key for latency tables, and additive columns.

Both come from one forward pass under a dispatch mode that sees every aten operator, so they cost milliseconds and no
export. The key holds the operators, their non-tensor arguments, the shapes and types of their tensors, and which
operator feeds which. It contains neither weight values nor the module's position.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d  # in the order of how many dimensions their places have

_VERSION = "1"  # part of every key: raise it when the recording changes, so that old rows are not mistaken for new ones

# Kernels that one and the same call of the model's code picks by device or build: recorded under one name.
_SAME = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_flash_attention": "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_efficient_attention": "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_cudnn_attention": "aten::scaled_dot_product_attention",
    "aten::cudnn_batch_norm": "aten::native_batch_norm",
}
_NO_WORK = {"aten::detach", "aten::alias", "aten::lift_fresh", "prim::device"}
# Operators that every runtime folds into the one before, or that move no data: no dispatch of their own.
_FREE = {
    *_NO_WORK,
    *(
        f"aten::{name}"
        for name in [
            "native_batch_norm",
            "_native_batch_norm_legit_no_training",
            "relu",
            "relu_",
            "hardtanh",
            "hardtanh_",
            "view",
            "_unsafe_view",
            "reshape",
            "t",
            "transpose",
            "permute",
            "unsqueeze",
            "squeeze",
            "expand",
            "unbind",
            "split",
            "split_with_sizes",
            "chunk",
            "slice",
            "select",
            "as_strided",
            "dropout",
            "native_dropout",
            "clone",
            "contiguous",
            "empty",
            "zeros",
            "ones",
            "arange",
            "full",
        ]
    ),
}


@contextlib.contextmanager
def quiet_evaluation(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; flags, buffers and the random state are put back afterwards.

    Attention's fused fast path is off, so that submodules are really called.
    """
    training = [(part, part.training) for module in modules for part in module.modules()]
    buffers = [(part, {name: b.clone() for name, b in part._buffers.items() if b is not None}) for part, _ in training]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module in modules:
            module.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # a GPU's would begin to use it
            torch.default_generator.manual_seed(0)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for part, flag in training:
            part.training = flag
        for part, values in buffers:
            for name, value in values.items():
                current = part._buffers.get(name)
                if current is not None and current.shape == value.shape and not torch.equal(current, value):
                    current.copy_(value)


def macs_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """Multiply-adds of one aten call: matrix products, convolutions and attention; everything else counts 0.

    One multiply-add is one fused operation (half of what the same products count as floating-point operations).
    """
    name = func._schema.name
    if name == "aten::_scaled_dot_product_flash_attention_for_cpu":
        return sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape) // 2
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out)) // 2


def flat_tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from flat_tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat_tensors(item)
    elif hasattr(value, "__dataclass_fields__"):  # the output records of some libraries
        for name in value.__dataclass_fields__:
            yield from flat_tensors(getattr(value, name, None))


def bytes_of(value: Any) -> int:
    """The bytes of all tensors in nested tuples, lists and mappings."""
    return sum(tensor.nbytes for tensor in flat_tensors(value))


class _Recording(TorchDispatchMode):
    """Writes one line for every aten call."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.macs = 0
        self.operators = 0
        self.activations = 0
        self._numbers = WeakIdKeyDictionary()
        for tensor in flat_tensors(inputs):
            self._numbers[tensor] = f"input{len(self._numbers)}"

    def _describe(self, value: Any) -> str:
        if isinstance(value, Tensor):
            number = self._numbers.get(value)
            kind = "weight" if number is None else number
            return f"{kind}:{tuple(value.shape)}:{value.dtype}"
        if isinstance(value, (tuple, list)):
            return f"[{','.join(map(self._describe, value))}]"
        if isinstance(value, (torch.device, torch.layout, torch.Generator)):
            return ""  # where it ran is no part of what it is
        return repr(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _SAME.get(func._schema.name, func._schema.name)
        described = ",".join(map(self._describe, args))
        named = ",".join(f"{key}={self._describe(value)}" for key, value in sorted(kwargs.items()))
        out = func(*args, **kwargs)
        if name in _NO_WORK:
            for source, result in zip(flat_tensors(args), flat_tensors(out), strict=False):
                if source in self._numbers:
                    self._numbers[result] = self._numbers[source]
            return out
        self.macs += macs_of(func, args, kwargs, out)
        if name not in _FREE:
            self.operators += 1
            self.activations += sum(tensor.numel() for tensor in flat_tensors(out))
        for position, tensor in enumerate(flat_tensors(out)):
            self._numbers[tensor] = f"{len(self.lines)}.{position}"
        self.lines.append(f"{name}({described};{named})")
        return out


def _record(module: nn.Module, example_inputs: Sequence[Any]) -> _Recording:
    with quiet_evaluation(module):
        recording = _Recording(example_inputs)
        with recording:
            out = module(*example_inputs)
        recording.lines.append("return " + ",".join(recording._describe(tensor) for tensor in flat_tensors(out)))
    return recording


def structure_key(module: nn.Module, example_inputs: Sequence[Any], precision: str = "fp32") -> str:
    """A hash of what decides the module's speed on these inputs: 32 hexadecimal digits.

    Modules that differ in weight values alone have the same key. Another stride, width, input shape or precision gives
    another.

    >>> x = (torch.zeros(1, 8, 4, 4),)
    >>> structure_key(nn.Conv2d(8, 8, 3), x) == structure_key(nn.Conv2d(8, 8, 3), x)
    True
    >>> structure_key(nn.Conv2d(8, 8, 3), x) == structure_key(nn.Conv2d(8, 8, 3, padding=1), x)
    False
    """
    return structure(module, example_inputs, precision)[0]


def structure(
    module: nn.Module, example_inputs: Sequence[Any], precision: str = "fp32"
) -> tuple[str, dict[str, float]]:
    """`structure_key`, and additive numbers known without measuring.

    These are `parameters`, `weight_bytes`, `macs`, `operators` and `activations`. `macs` is for the whole batch.
    `operators` leaves out what runtimes fold away: batch norms, ReLUs and views; `activations` are the numbers that
    the others write.

    >>> _, columns = structure(nn.Conv2d(8, 16, 3, bias=False), (torch.zeros(1, 8, 4, 4),))
    >>> columns["parameters"], columns["macs"]  # 8 * 16 * 3 * 3 weights, at 2 * 2 places
    (1152.0, 4608.0)
    """
    recording = _record(module, example_inputs)
    added = [] if precision == "fp32" else [f"precision {precision}"]  # keys from before precisions are those of fp32
    text = "\n".join([_VERSION, *added, *recording.lines])
    weights = list(module.parameters())
    return hashlib.sha256(text.encode()).hexdigest()[:32], {
        "parameters": float(sum(p.numel() for p in weights)),
        "weight_bytes": float(sum(p.numel() * p.element_size() for p in weights)),
        "macs": float(recording.macs),
        "operators": float(recording.operators),
        "activations": float(recording.activations),
    }
