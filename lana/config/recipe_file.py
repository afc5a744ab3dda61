"""Recipe files: flat YAML, an option a line under its help text; paths are relative to the file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lana.common.reference import LOCAL, split_reference
from lana.common.suggestions import near
from lana.errors import UserError


class _Loader(yaml.SafeLoader):
    """Refuses an option that is given twice: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the option {name[:60]!r} is given twice. Keep one of its lines.", node.start_mark
                )
        return super().construct_mapping(node, deep)


def options_text(options: Mapping[str, Any], helps: Mapping[str, str]) -> str:
    """A recipe file with these options."""
    lines = ["# A recipe of lana: `lana compress --recipe FILE` runs it again. Paths are relative to this file."]
    for name, value in options.items():
        plain = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1000)
        lines += ["", f"# {helps[name]}", f"{name}: {text.removesuffix('...' + chr(10)).strip()}"]
    return "\n".join(lines) + "\n"


def read_options(path: Path | str, known: Iterable[str]) -> dict[str, Any]:
    """The options in a recipe file, unchecked but for their names.

    Raises:
        UserError: the file is missing, not YAML, or names an option that does not exist.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise UserError(f"Cannot read the recipe {path}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not text, or a date that is none
        raise UserError(f"The recipe {path} is not valid YAML: {str(error)[:500]}") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"The recipe {path} holds {type(content).__name__}; expected lines like 'model: digits-resnet'."
        )
    names = list(known)
    for name in content:
        if name not in names:
            raise UserError(
                f"The recipe {path} names the option {name!r}, which does not exist.{near(str(name), names)}"
            )
    return dict(content)


def moved(options: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """The options with paths that are relative to the folder `old` made relative to the folder `new`."""

    def path(text: str) -> str:
        if text.startswith("~") or Path(text).is_absolute():
            return text
        return os.path.relpath(old.resolve() / text, new.resolve())

    def reference(text: str) -> str:
        kind, place = split_reference(text)
        if kind.endswith(".py"):
            return f"{path(kind)}:{place}" if place else path(kind)
        if kind == "timm" and place.startswith(LOCAL):
            return f"timm:{LOCAL}{path(place.removeprefix(LOCAL))}"
        return f"{kind}:{path(place)}" if kind in ("folder", "parquet", "npz") and place else text

    return {
        **options,
        **{name: reference(options[name] or "") or options[name] for name in ("model", "data", "task", "decode")},
        "pool": ",".join(reference(part.strip()) for part in options["pool"].split(",")),
        "weights": options["weights"] and path(options["weights"]),
    }
