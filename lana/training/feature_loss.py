"""The distance of the student's features from the teacher's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class FeatureTerms:
    """The mean over submodules of |student − teacher|² / |teacher|², on the last batch of both networks.

    The submodules are the outermost ones that both networks have under the same name: a student has its teacher's, with
    other operations inside.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        shared = dict(teacher.named_children()).keys() & dict(student.named_children()).keys()
        self.names = sorted(shared)
        self.modules = [{name: module.get_submodule(name) for name in self.names} for module in (student, teacher)]
        self.features: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for modules, kept in zip(self.modules, self.features, strict=True):
                for name, module in modules.items():
                    stack.callback(module.register_forward_hook(_keep(kept, name)).remove)
            yield

    def distance(self) -> Tensor:
        ours, theirs = self.features
        terms = [
            (ours[name].float() - theirs[name].float()).square().mean() / theirs[name].float().square().mean()
            for name in self.names
            if name in ours and name in theirs and ours[name].shape == theirs[name].shape
        ]
        return torch.stack(terms).mean() if terms else torch.zeros(())


def _keep(kept: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            kept[name] = output

    return hook
