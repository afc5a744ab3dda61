"""lana: compress a pretrained PyTorch network to a latency budget that holds when measured.

The whole story is in `lana.pipeline`. Importing this package is cheap: what needs torch loads when first used.

>>> import lana
>>> recipe = lana.Recipe(model="digits-resnet", data="digits", budget="0.4x")
>>> recipe.profiling.runtime, recipe.profiling.threads
('onnxruntime-cpu', 1)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lana.version import __version__ as __version__
from profilers import telemetry as _telemetry

if TYPE_CHECKING:
    from lana.common.importing import trust_code
    from lana.config.recipe import Recipe
    from lana.errors import BudgetUnreachable, LanaError, UserError
    from lana.evaluation.task import Task
    from lana.models.student_files import load_student
    from lana.models.teacher import load_teacher
    from lana.networks.layers import Layer, LayerScan, find_layers
    from lana.operations.families import Operation
    from lana.operations.presets import offered
    from lana.operations.user import operation
    from lana.pipeline import compress, finetune, select, select_for, verify
    from lana.report.page import write_report
    from lana.standalone import evaluate, export, measure, profile

_telemetry.switch_off()

_HOME = {
    "BudgetUnreachable": "errors",
    "LanaError": "errors",
    "UserError": "errors",
    "Layer": "networks.layers",
    "LayerScan": "networks.layers",
    "find_layers": "networks.layers",
    "Operation": "operations.families",
    "offered": "operations.presets",
    "operation": "operations.user",
    "Task": "evaluation.task",
    "compress": "pipeline",
    "evaluate": "standalone",
    "export": "standalone",
    "finetune": "pipeline",
    "measure": "standalone",
    "profile": "standalone",
    "select": "pipeline",
    "select_for": "pipeline",
    "verify": "pipeline",
    "write_report": "report.page",
    "Recipe": "config.recipe",
    "trust_code": "common.importing",
    "load_student": "models.student_files",
    "load_teacher": "models.teacher",
}

__all__ = [
    "BudgetUnreachable",
    "LanaError",
    "Layer",
    "LayerScan",
    "Operation",
    "Recipe",
    "Task",
    "UserError",
    "compress",
    "evaluate",
    "export",
    "find_layers",
    "finetune",
    "load_student",
    "load_teacher",
    "measure",
    "offered",
    "operation",
    "profile",
    "select",
    "select_for",
    "trust_code",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'lana' has no attribute {name!r}")
    return getattr(import_module(f"lana.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
