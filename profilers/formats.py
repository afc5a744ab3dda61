"""The formats of files, one name each: runtimes run the first two, all of them can be shipped."""

from __future__ import annotations

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "openvino": ".xml", "tensorrt": ".engine"}

_FORMER_NAMES = {"exported": "torch_export"}


def current_name(name: str) -> str:
    """The name of a format today, of one that a stored file may give.

    >>> current_name("exported"), current_name("onnx")
    ('torch_export', 'onnx')
    """
    return _FORMER_NAMES.get(name, name)
