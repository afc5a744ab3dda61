"""Files of weights: read, and loaded into a module completely or not at all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.config.references import weights_file
from lana.errors import UserError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a state dict (read with `weights_only=True`).

    Common wrappers are opened ({"state_dict": …}, {"model": …}).

    Raises:
        UserError: the file is missing, truncated, or holds no weights.
    """
    file = weights_file(path)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged file fails in any way
        raise UserError(
            f"{file} is not a readable weights file ({type(error).__name__}: {str(error).partition('. ')[0][:200]}). "
            "Expected a safetensors file or a state dict saved by torch.save; "
            "is it truncated, or does it hold other objects beside weights? Then save the network's state_dict() alone."
        ) from error
    while isinstance(content, Mapping) and not _is_state(content):
        inside = [name for name, value in content.items() if isinstance(value, Mapping) and value]
        known = [name for name in ("state_dict", "model_state_dict", "model") if name in inside]
        states = known or [name for name in inside if _is_state(content[name])]
        if len(states) != 1 and not known:
            held = ", ".join(map(str, list(content)[:8])) or "nothing"
            raise UserError(
                f"{file} holds no state dict (names → tensors), but: {held}. "
                "Save the network's state_dict() and give that."
            )
        content = content[states[0]]
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file} holds no state dict (names → tensors), but: {type(content).__name__}. "
            "Save the network's state_dict() and give that."
        )
    return dict(content)


def _is_state(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a weights file into a module; every key must fit, but for one prefix of all ("module.", "model.").

    Raises:
        UserError: keys are missing, left over, or of other shapes; they are named.
    """
    state, own = read_state_dict(path), module.state_dict()
    prefixes = {name[: name.find(".") + 1] for name in state}  # nothing where there is no dot
    if len(prefixes) == 1 and own.keys().isdisjoint(state):  # of a wrapper around the network
        state = {name.removeprefix(*prefixes): value for name, value in state.items()}
    wrong = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    # A file may hold one of the tensors that share their memory.
    held = {own[name].data_ptr() for name in own if name in state}
    optional |= {name for name in own if name not in state and own[name].data_ptr() in held}
    missing = [name for name in own if name not in state and name not in optional]
    unknown = [name for name in state if name not in own]
    if wrong or missing or unknown:
        parts = [
            f"{title} {len(names)} ({'; '.join(names[:3])}{' …' if len(names) > 3 else ''})"
            for title, names in (
                ("other shapes:", wrong),
                ("missing from the file:", missing),
                ("unknown to the model:", unknown),
            )
            if names
        ]
        raise UserError(
            f"The weights {path} do not fit the model: {', '.join(parts)}. "
            "Check the model's name and its arguments (--model-args num_classes=…)."
        )
    versioned = OrderedDict(state)
    versioned._metadata = own._metadata  # type: ignore[attr-defined]  # a safetensors file has none, some modules ask
    module.load_state_dict(versioned, strict=not optional)
