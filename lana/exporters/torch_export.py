"""A module as a `torch.export` program (.pt2)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lana.common.files import write_atomically
from lana.exporters.tracing import ExportFailed, in_a_tuple, quiet_export, short_error


def export_program(module: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool = False) -> Path:
    """Write a module as a `torch.export` program (.pt2).

    Raises:
        ExportFailed: the module cannot be traced.
    """
    module.eval()
    with quiet_export(), torch.no_grad():
        try:
            shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic_batch else None
            module = in_a_tuple(module, module(example))
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
            return write_atomically(path, lambda temporary: torch.export.save(program, temporary))
        except Exception as error:  # the network's own code, or torch's tracer
            raise ExportFailed(
                f"{type(module).__name__} cannot be exported by torch.export: {short_error(error)}"
            ) from error
