"""Networks by reference: the bundled one, timm's, torchvision's, or a function in a user's file."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lana.common.importing import explain_function, function_from_file, import_torchvision, require
from lana.common.reference import HUB, LOCAL, split_reference
from lana.common.suggestions import near
from lana.config.references import BUNDLED, check_model
from lana.errors import UserError
from lana.models.own_preprocessing import of_timm, own_preprocessing
from lana.models.plain_modules import unwrap_parts, wrapped
from lana.models.torchvision_detectors import is_one_stage, raw_detector


def build_network(
    model: str, kwargs: dict[str, Any], *, pretrained: bool
) -> tuple[nn.Module, Mapping[str, Any] | None]:
    check_model(model)
    kind, name = split_reference(model)
    with _explain_arguments(model, kwargs):
        if model in BUNDLED:
            from lana.models.bundled import digits_resnet

            return digits_resnet(pretrained=pretrained, **kwargs)
        if kind == "timm":
            return _from_timm(name, kwargs, pretrained=pretrained)
        if kind == "torchvision":
            return _from_torchvision(name, kwargs, pretrained=pretrained)
    module = _call(function_from_file(kind, name, what="a model"), kwargs, model)
    if not isinstance(module, nn.Module):
        raise UserError(f"{model} returned {type(module).__name__}; expected a torch.nn.Module.")
    own = own_preprocessing(module, model)
    while (inner := wrapped(module)) is not None:
        module = inner
        own = own or own_preprocessing(module, model)
    _refuse_torchscript(module, model)
    unwrap_parts(module)
    return module.float(), own


def _refuse_torchscript(module: nn.Module, model: str) -> None:
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = f"holds TorchScript as {name!r}" if name else f"returned TorchScript ({type(part).__name__})"
            raise UserError(
                f"{model} {where}, whose parts can be neither watched nor replaced. "
                "Return the torch.nn.Module that it was made of."
            )


def _call(function: Callable[..., Any], kwargs: dict[str, Any], model: str) -> Any:
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError as error:
        raise UserError(f"{model} cannot be called with {kwargs}: {error}. Use --model-args NAME=VALUE.") from error
    with explain_function(model):
        return function(**kwargs)


@contextlib.contextmanager
def _explain_arguments(model: str, kwargs: dict[str, Any]) -> Iterator[None]:
    """Turn a library's refusal of the user's arguments into a message."""
    try:
        yield
    except (TypeError, ValueError, AssertionError) as error:
        if not kwargs:
            raise
        raise UserError(
            f"{model} cannot be built with {kwargs}: {error}. Check --model-args; "
            "where they make another network than the pretrained one, give its weights with --weights."
        ) from error


def _from_timm(name: str, kwargs: dict[str, Any], *, pretrained: bool) -> tuple[nn.Module, Mapping[str, Any]]:
    import_torchvision()
    timm = require("timm", extra="vision")
    if name.startswith(LOCAL):
        name = f"{LOCAL}{Path(name.removeprefix(LOCAL)).expanduser()}"
    elif not name.startswith(HUB) and not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}.{near(name, timm.list_models())}")
    with explain_download(f"timm:{name}"), _explain_config(name):
        module = timm.create_model(name, pretrained=pretrained, **kwargs)
    return module, of_timm(timm.data.resolve_model_data_config(module))


@contextlib.contextmanager
def _explain_config(name: str) -> Iterator[None]:
    """Turn timm's refusal of a configuration that is not its own into a message."""
    try:
        yield
    except Exception as error:  # what a configuration holds is called, so anything may come
        if ":" not in name or isinstance(error, OSError):
            raise
        raise UserError(
            f"timm cannot build {name} ({type(error).__name__}: {str(error)[:200]}). "
            "Expected a config.json with the 'architecture' of a model that timm knows, and weights that fit it."
        ) from error


def _from_torchvision(name: str, kwargs: dict[str, Any], *, pretrained: bool) -> tuple[nn.Module, Mapping[str, Any]]:
    models = import_torchvision().models
    known = models.list_models()
    if name not in known:
        raise UserError(f"torchvision has no model {name!r}.{near(name, known)}")
    default = models.get_model_weights(name).DEFAULT
    transforms = default.transforms()
    with explain_download(f"torchvision:{name}"):
        module = models.get_model(
            name,
            weights=default if pretrained else None,
            **({} if pretrained else _no_backbone(models.get_model_builder(name))),
            **kwargs,
        )
    if is_one_stage(module):
        return raw_detector(module)
    if pretrained and "aux_loss" not in kwargs and getattr(module, "aux_classifier", None) is not None:
        module.aux_classifier = None  # it only helps training
    resized = getattr(transforms, "resize_size", [224])
    size = getattr(transforms, "crop_size", None) or resized
    mean, std = (getattr(transforms, name, None) for name in ("mean", "std"))  # detection networks have none
    return module, {"image_size": size[0], "mean": mean, "std": std, "crop_share": min(1.0, size[0] / resized[0])}


def _no_backbone(builder: Callable[..., Any]) -> dict[str, Any]:
    """The argument that keeps segmentation and detection networks from loading a backbone's weights by default."""
    return {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}


@contextlib.contextmanager
def explain_download(model: str) -> Any:
    """Turn a failed download of pretrained weights into a message."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        other = f"timm:{LOCAL}PATH, a folder that timm saved" if "hub:" in model else "a file with --weights"
        raise UserError(
            f"The pretrained weights of {model} could not be downloaded ({type(error).__name__}: {str(error)[:200]}). "
            f"Give {other}, or connect to the network."
        ) from error
