"""Writes small ONNX files without the package `onnx`, which a bare device does not have.

An ONNX file is one serialised ModelProto; the numbers below are the field numbers of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# Understood by ONNX Runtime since 1.12, by TensorRT since 8.6, by every OpenVINO of this decade.
_IR_VERSION, _OPSET = 8, 17
FLOAT, FLOAT16 = 1, 10  # of TensorProto
_INT, _INTS = 2, 7  # of AttributeProto

Node = tuple[str, Sequence[str], str, Mapping[str, int | Sequence[int]]]  # operator, inputs, output, attributes


def model(
    nodes: Sequence[Node],
    *,
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, np.ndarray],
) -> bytes:
    """A model with inputs and outputs in float32, weights in float32 or float16, and attributes that are integers."""
    graph = b"".join(
        [
            *(_message(1, _node(*node)) for node in nodes),
            _text(2, "graph"),
            *(_message(5, _weight(name, array)) for name, array in weights.items()),
            *(_message(11, _value(name, shape)) for name, shape in inputs.items()),
            *(_message(12, _value(name, shape)) for name, shape in outputs.items()),
        ]
    )
    return _number(1, _IR_VERSION) + _text(2, "lana") + _message(7, graph) + _message(8, _number(2, _OPSET))


def _node(operator: str, inputs: Sequence[str], output: str, attributes: Mapping[str, int | Sequence[int]]) -> bytes:
    named = (_message(5, _text(1, name) + _attribute(value)) for name, value in attributes.items())
    return b"".join([*(_text(1, name) for name in inputs), _text(2, output), _text(4, operator), *named])


def _attribute(value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _number(3, value) + _number(20, _INT)
    return b"".join(_number(8, one) for one in value) + _number(20, _INTS)


def _weight(name: str, array: np.ndarray) -> bytes:
    sizes = b"".join(_number(1, size) for size in array.shape)
    kind, stored = (FLOAT16, "<f2") if array.dtype == np.float16 else (FLOAT, "<f4")
    return sizes + _number(2, kind) + _text(8, name) + _message(9, array.astype(stored).tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    sizes = b"".join(_message(1, _number(1, size)) for size in shape)
    tensor = _number(1, FLOAT) + _message(2, sizes)
    return _text(1, name) + _message(2, _message(1, tensor))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first.

    >>> _varint(300).hex()  # 300 = 0b10_0101100: 0101100 with the continuation bit, then 10
    'ac02'
    """
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _message(field, content.encode())
