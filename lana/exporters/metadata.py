"""The metadata of an ONNX file: the preprocessing, and the names of the classes in their order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lana.common.files import write_atomically


def describe(path: Path, preprocessing: Mapping[str, Any] | None, classes: Sequence[str] | None) -> Path:
    """Write the entries `preprocessing` and `classes`, each as JSON, into the metadata of an ONNX file."""
    import onnx

    model = onnx.load(str(path))
    entries = {entry.key: entry.value for entry in model.metadata_props}
    described = {"preprocessing": preprocessing, "classes": list(classes) if classes else None}
    entries |= {name: json.dumps(value) for name, value in described.items() if value is not None}
    onnx.helper.set_model_props(model, entries)
    return write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))


def described(path: Path) -> dict[str, Any]:
    """The entries that `describe` wrote."""
    import onnx

    entries = onnx.load(str(path), load_external_data=False).metadata_props
    return {entry.key: json.loads(entry.value) for entry in entries if entry.key in ("preprocessing", "classes")}
