"""lana: compress a pretrained PyTorch network to a latency budget that holds when measured.

The whole story is in `lana.pipeline`. Importing this package is cheap: what needs torch loads when first used.

>>> import lana
>>> recipe = lana.Recipe(model="digits-resnet", data="digits", budget="0.4x")
>>> recipe.runtime, recipe.threads
('onnxruntime-cpu', 1)
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lana.errors import BudgetUnreachable, LanaError, UserError
    from lana.layers import Layer, LayerScan, find_layers
    from lana.operations import Operation, offered
    from lana.pipeline import compress, finetune, select
    from lana.recipe import Recipe
    from lana.standalone import evaluate, measure, profile
    from lana.student import load_student
    from lana.teacher import load_teacher

_HOME = {
    "BudgetUnreachable": "errors",
    "LanaError": "errors",
    "UserError": "errors",
    "Layer": "layers",
    "LayerScan": "layers",
    "find_layers": "layers",
    "Operation": "operations",
    "offered": "operations",
    "compress": "pipeline",
    "evaluate": "standalone",
    "finetune": "pipeline",
    "measure": "standalone",
    "profile": "standalone",
    "select": "pipeline",
    "Recipe": "recipe",
    "load_student": "student",
    "load_teacher": "teacher",
}

__all__ = [
    "BudgetUnreachable",
    "LanaError",
    "Layer",
    "LayerScan",
    "Operation",
    "Recipe",
    "UserError",
    "compress",
    "evaluate",
    "find_layers",
    "finetune",
    "load_student",
    "load_teacher",
    "measure",
    "offered",
    "profile",
    "select",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'lana' has no attribute {name!r}")
    return getattr(import_module(f"lana.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
