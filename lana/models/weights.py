"""Files of weights: the right ones of a checkpoint, loaded into a module completely or not at all."""

from __future__ import annotations

import argparse
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lana.config.references import weights_file
from lana.errors import UserError

logger = logging.getLogger(__name__)

_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|avg)([._]|$)")
_USUAL = ("state_dict", "model_state_dict", "model", "module")
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # parts of names they add
_OLD_NORM = re.compile(r"\b(\w+)_([gv])$")
_OF_TRAINING = re.compile(r"(criterion|loss|metric)", re.IGNORECASE)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a state dict (read with `weights_only=True`).

    Common checkpoints are opened ({"state_dict": …}, {"model": …}). Where one holds averaged weights beside the raw
    ones, the averaged are taken, and a line says so; FILE::KEY takes the others.

    Raises:
        UserError: the file is missing or truncated, or holds no weights, or several of which none is the usual choice.
    """
    file, key = weights_file(path)
    content = whole = _read(file)
    while isinstance(content, Mapping) and not _is_state(content):
        name, _, rest = key.partition(".")
        if name and _holds_state(content.get(name)):
            content, key = content[name], rest
        else:
            content = content[_choice(file, content)]
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file} holds no state dict (names → tensors), but: {type(content).__name__}. "
            "Save the network's state_dict() and give that."
        )
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if key:
        part = {name.removeprefix(f"{key}."): value for name, value in state.items() if name.startswith(f"{key}.")}
        if not part:
            names = [*(n for n in whole if _holds_state(whole[n])), *dict.fromkeys(n.split(".")[0] for n in state)]
            raise UserError(f"{file} holds no weights under {key!r}, but under: {_some(names, 8)}. Check --weights.")
        return part
    if len(state) < len(content):
        logger.info(
            "%s: left out, as no tensors: %s.", file, _some([str(name) for name in content if name not in state])
        )
    return state


def _read(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options that training scripts keep beside
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged file fails in any way
        raise UserError(
            f"{file} is not a readable weights file ({type(error).__name__}: {str(error).partition('. ')[0][:200]}). "
            "Expected a safetensors file or a state dict saved by torch.save; "
            "is it truncated, or does it hold other objects beside weights? Then save the network's state_dict() alone."
        ) from error


def _is_state(content: Any) -> bool:
    """Whether weights lie here by their names, perhaps beside an epoch, and not in one of the entries."""
    return (
        isinstance(content, Mapping)
        and any(isinstance(value, Tensor) and value.ndim for value in content.values())
        and not any(_holds_state(content[name]) for name in content if _is_usual(name))
    )


def _is_usual(name: Any) -> bool:
    return name in _USUAL or bool(_AVERAGED.search(str(name)))


def _holds_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and "param_groups" not in content  # of an optimizer
        and any(value.ndim if isinstance(value, Tensor) else _holds_state(value) for value in content.values())
    )


def _choice(file: Path, content: Mapping[str, Any]) -> str:
    """The name of the entry to open: the averaged weights, else the usual ones, else the only ones."""
    states = [name for name, value in content.items() if _holds_state(value)]
    # MMEngine exchanges the two: its state_dict holds the averaged weights.
    exchanged = "mmengine_version" in str(content.get("meta"))
    averaged = [name for name in content if _AVERAGED.search(str(name)) and not exchanged]
    best = [name for name in averaged if name in states]
    options = best or [name for name in _USUAL if name in states][:1] or states
    if len(options) != 1:
        held = ", ".join(map(str, list(content)[:8])) or "nothing"
        advice = f"Choose one: --weights {file}::{options[0]}." if options else "Save that of the network."
        raise UserError(f"{file} holds no state dict (names → tensors) of one network, but: {held}. {advice}")
    others = [name for name in states if name not in averaged]
    if best and others:
        _tell_averaged(file, others[0], best[0])
    for name in averaged if not best else ():
        if isinstance(content[name], (Mapping, list)) and content[name]:
            logger.info("%s: %s holds no tensors by name; %s is taken instead.", file, name, options[0])
    return options[0]


def _tell_averaged(file: Path, raw: str, averaged: str) -> None:
    logger.info(
        "%s holds %s and %s: the averaged weights are taken. --weights %s::%s takes the others.",
        *(file, raw, averaged, file, raw),
    )


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a weights file into a module: all of it, or the one part below a prefix ("model.") that fits exactly.

    Names that wrappers add are passed over. A line says what was left out.

    Raises:
        UserError: keys are missing, left over, or of other shapes; they are named.
    """
    own = module.state_dict()
    state = _bare(read_state_dict(path), own)
    parts = {prefix: _below(prefix, state, own) for prefix in _prefixes(state, own)}
    fitting = [prefix for prefix, part in parts.items() if not _misfits(part, own)]
    averaged = [prefix for prefix in fitting if _AVERAGED.search(prefix)]
    chosen = averaged or fitting
    if any(not _equal(parts[chosen[0]], parts[prefix]) for prefix in chosen[1:]):
        raise UserError(
            f"The weights {path} hold several parts that fit the model: {_some(chosen)}. "
            f"Choose one: --weights {weights_file(path)[0]}::{chosen[0].rstrip('.')}."
        )
    if averaged and len(averaged) < len(fitting):
        raw = next(prefix for prefix in fitting if prefix not in averaged)
        _tell_averaged(weights_file(path)[0], raw.rstrip("."), averaged[0].rstrip("."))
    if not chosen:
        nearest = min(parts.values(), key=lambda part: sum(map(len, _misfits(part, own).values())))
        listed = [f"{title} {len(names)} ({_some(names)})" for title, names in _misfits(nearest, own).items()]
        raise UserError(
            f"The weights {path} do not fit the model: {', '.join(listed)}. "
            "Check the model's name and its arguments (--model-args num_classes=…)."
        )
    prefix = chosen[0]
    left = [name for name in state if name.removeprefix(prefix) not in parts[prefix] or not name.startswith(prefix)]
    if left:
        where = f"the part {prefix.rstrip('.')!r} of " if prefix else ""
        logger.info("%s%s is loaded; left out: %s.", where, path, _some(left))
    versioned = OrderedDict(parts[prefix])
    versioned._metadata = own._metadata  # type: ignore[attr-defined]  # a safetensors file has none, some modules ask
    module.load_state_dict(versioned, strict=own.keys() <= versioned.keys())


def _bare(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the parts of names that wrappers add, but for those that the network has itself."""
    added = _WRAPPERS - {part for name in own for part in name.split(".")}
    bare = {".".join(part for part in name.split(".") if part not in added): value for name, value in state.items()}
    if any(".parametrizations." in name for name in own):  # as torch called a weight norm's parts before
        bare = {_OLD_NORM.sub(_new_norm, name): value for name, value in bare.items()}
    return bare if len(bare) == len(state) else state


def _new_norm(old: re.Match[str]) -> str:
    return f"parametrizations.{old[1]}.original{'gv'.index(old[2])}"


def _prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What stands before the network's own names in the file: nothing where one stands there as it is."""
    if not own.keys().isdisjoint(state):
        return [""]
    starts = ((name, dot.end()) for name in state for dot in re.finditer(r"\.", name))
    return ["", *dict.fromkeys(name[:start] for name, start in starts if name[start:] in own)]


def _below(prefix: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What lies below a prefix; of the whole file, without what only training needs."""
    if prefix:
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in state.items() if name in own or not _is_of_training(name, value)}


def _is_of_training(name: str, value: Tensor) -> bool:
    return ("." not in name and value.ndim == 0) or bool(_OF_TRAINING.match(name))


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(name in other and torch.equal(tensor, other[name]) for name, tensor in one.items())


def _misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names that keep a state from being loaded, by what is wrong with them; nothing where it fits."""
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    # A file may hold one of the tensors that share their memory.
    held = {own[name].data_ptr() for name in own if name in state}
    optional |= {name for name in own if name not in state and own[name].data_ptr() in held}
    found = {
        "other shapes:": [
            f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
        "missing from the file:": [name for name in own if name not in state and name not in optional],
        "unknown to the model:": [name for name in state if name not in own],
    }
    return {title: names for title, names in found.items() if names}


def _some(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list."""
    return "; ".join(names[:most]) + (" …" if len(names) > most else "")
