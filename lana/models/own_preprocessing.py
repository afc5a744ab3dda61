"""The preprocessing that a network carries: an attribute of its own, or the configuration of timm or Transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lana.errors import UserError
from lana.models.preprocessing import KEYS


def own_preprocessing(module: nn.Module, model: str) -> Mapping[str, Any] | None:
    """The preprocessing that a network declares; None where it declares none.

    Its attribute `preprocessing` counts first, then a configuration of timm, then one of Transformers, of any part.

    Raises:
        UserError: the attribute holds what is no preprocessing.
    """
    own = getattr(module, "preprocessing", None)
    if isinstance(own, Mapping):  # a part of that name computes something
        unknown = [str(name) for name in own if name not in KEYS]
        if unknown:
            raise UserError(f"{model}: its preprocessing holds {unknown[0]!r}. Expected {', '.join(KEYS)} only.")
        return own
    parts = list(module.modules())
    return next((found for read in (_of_timm, _of_transformers) for part in parts if (found := read(part))), None)


def of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as timm resolves it.

    >>> of_timm({"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875})["crop_share"]
    0.875
    """
    size = config.get("input_size") or (None,)
    return _present(
        image_size=size[-1], mean=config.get("mean"), std=config.get("std"), crop_share=config.get("crop_pct")
    )


def _of_timm(part: nn.Module) -> dict[str, Any] | None:
    config = getattr(part, "pretrained_cfg", None)
    if not isinstance(config, Mapping) and not hasattr(config, "input_size"):
        return None
    fields = config if isinstance(config, Mapping) else {name: getattr(config, name, None) for name in _TIMM_FIELDS}
    return of_timm(fields)


_TIMM_FIELDS = ("input_size", "mean", "std", "crop_pct")


def _of_transformers(part: nn.Module) -> dict[str, Any] | None:
    """The size of a model's configuration, and its image processor's file where that lies on this machine."""
    config = getattr(part, "config", None)
    size = getattr(config, "image_size", None)
    if config is None or size is None or not hasattr(config, "name_or_path"):
        return None
    file = _processor_file(str(config.name_or_path))
    own = of_processor(json.loads(file.read_text())) if file is not None else {}
    return {"image_size": size if isinstance(size, int) else max(size), **own}


def _processor_file(name: str) -> Path | None:
    local = Path(name) / "preprocessor_config.json"
    if local.is_file():
        return local
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        cached = try_to_load_from_cache(name, "preprocessor_config.json")
    except ValueError:  # the name of no repository
        return None
    return Path(cached) if isinstance(cached, str) else None


def of_processor(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an image processor of Transformers.

    >>> of_processor({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}})
    {'image_size': 224, 'crop_share': 0.875}
    """
    resized, cropped = _edge(fields.get("size")), _edge(fields.get("crop_size"))
    if fields.get("do_center_crop") is False:
        cropped = None
    share = fields.get("crop_pct")  # of ConvNeXt, where the size is that of the crop
    return _present(
        image_size=cropped or resized,
        mean=fields.get("image_mean"),
        std=fields.get("image_std"),
        crop_share=share or (cropped / resized if cropped and resized and cropped <= resized else None),
    )


def _edge(size: Any) -> int | None:
    sizes: Iterator[Any] = iter([size])
    if isinstance(size, Mapping):
        sizes = (size[name] for name in ("shortest_edge", "height", "width") if name in size)
    return next((edge for edge in sizes if isinstance(edge, int)), None)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
