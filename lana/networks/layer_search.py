"""The search inside a network: which submodules can be replaced, and why the others cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lana.networks.observation import ObservedModule

TOO_LARGE = 0.3  # of the network's work: what holds more is looked into rather than replaced as a whole


@dataclass(frozen=True, kw_only=True)
class SkippedModule:
    """A submodule that is left as it is, and why; its multiply-adds are for one example."""

    name: str
    reason: str
    macs: int


class LayerSearch:
    """Walks from the root to the largest submodules that are blocks."""

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        seen: Mapping[str, ObservedModule],
        total: int,
        granularity: str,
        batch: int,
    ) -> None:
        self.batch = batch
        self.model, self.modules, self.seen, self.total = model, modules, seen, max(total, 1)
        self.fine = granularity == "fine"
        self.skipped: list[SkippedModule] = []
        self.owners: dict[int, set[str]] = {}
        self.instances = Counter(type(module) for module in modules.values())
        for name, module in model.named_modules(remove_duplicate=False):
            for parameter in module.parameters(recurse=False):
                self.owners.setdefault(id(parameter), set()).add(name)
        # A class that is a block once is a block everywhere: an inverted residual that changes the shape is a plain
        # chain of convolutions, yet belongs among its kind.
        self.block_classes = {
            type(modules[name])
            for name in modules
            if name and self._is_block(name) and not _is_leaf(modules[name]) and not _is_container(modules[name])
        }

    def run(self, within: str = "") -> list[str]:
        """The layers inside of the network, or of a submodule that cannot be replaced as a whole."""
        return list(self._descend(within, inside=True))

    def _descend(self, name: str, *, inside: bool = False) -> Iterator[str]:
        if not inside and self.seen[name].calls == 0:  # a list of modules, or a part that is not used
            used = any(self.seen[path].calls for path in self.seen if path.startswith(f"{name}."))
            if not used and next(self.modules[name].parameters(), None) is not None:
                self.skipped.append(SkippedModule(name=name, reason=self._why_not(name), macs=0))
            yield from self._children_layers(name) if used else ()
            return
        if not inside and self.seen[name].macs == 0:
            return
        reason = "" if inside else self._why_not(name)
        stop = not inside and (self._is_block(name) or type(self.modules[name]) in self.block_classes)
        stop = stop and not self._is_stage(name)
        if stop and not reason and not self._too_large(name):
            inner = list(self._children_layers(name)) if self.fine else []
            yield from inner or [name]
            return
        below = list(self._children_layers(name))
        if below:
            yield from below
        elif not inside and not reason and not _only_attends(self.modules[name]):
            yield name
        elif reason:
            self.skipped.append(SkippedModule(name=name, reason=reason, macs=self.seen[name].macs // self.batch))

    def _children_layers(self, name: str) -> Iterator[str]:
        for child, _ in self.modules[name].named_children():
            path = f"{name}.{child}" if name else child
            if path in self.seen:
                yield from self._descend(path)

    def _too_large(self, name: str) -> bool:
        """True if the search should look inside: it holds much of the network and is no repeated block."""
        repeated = self.instances[type(self.modules[name])] > 1 and not _is_container(self.modules[name])
        return self.seen[name].macs > TOO_LARGE * self.total and not repeated and bool(self._working_children(name))

    def _working_children(self, name: str) -> list[str]:
        prefix = f"{name}." if name else ""
        children = [f"{prefix}{child}" for child, _ in self.modules[name].named_children()]
        return [child for child in children if child in self.seen and self.seen[child].macs > 0]

    def _is_block(self, name: str) -> bool:
        """True if a submodule is more than a chain of working children: it adds a shortcut, gates or attends."""
        children = self._working_children(name)
        if not children:
            return not self._why_not(name)
        if len(children) == 1 and self._passes_through(name, children[0]):
            return self._is_block(children[0])
        if len(children) == 1:
            return not self._why_not(name)
        if self._is_chain(children) or self._is_stage(name):
            return False
        return not self._why_not(name) and not self._too_large(name)

    def _is_stage(self, name: str) -> bool:
        """True if blocks of one class run one after the other inside: the blocks are the layers then."""
        prefix = f"{name}." if name else ""
        outputs: dict[tuple[type, int], bool] = {}
        inside = [path for path in self.modules if path.startswith(prefix) and path != name and path in self.seen]
        for path in sorted(inside, key=lambda path: self.seen[path].order):
            seen, module = self.seen[path], self.modules[path]
            if _is_container(module) or len(seen.inputs) != 1 or len(seen.outputs) != 1:
                continue
            if not self._is_composite(path) or self._of_parts(path):
                continue
            if (type(module), id(seen.inputs[0])) in outputs:
                return True
            outputs[type(module), id(seen.outputs[0])] = True
        return False

    def _works_alike(self, seen: ObservedModule) -> bool:
        """True where each call works on maps of the same channels and of another size: a head on several levels."""
        calls = [shapes for shapes in seen.shapes if shapes is not None]
        maps = len(calls) == seen.calls and all(len(shape) == 4 for call in calls for shape in call)
        channels = {(before[:2], after[:2]) for before, after in calls}
        return maps and len(channels) == 1 and len({before for before, _ in calls}) == len(calls)

    def _is_composite(self, name: str) -> bool:
        """True for several working children, or one of several around which more is done (a shortcut)."""
        children = self._working_children(name)
        if len(children) != 1:
            return len(children) > 1
        return len(self._working_children(children[0])) > 1 and not self._passes_through(name, children[0])

    def _of_parts(self, name: str) -> bool:
        """True if it works on windows, patches or frames as if each were an example; their number is no setting."""
        return any(tensor.ndim > 0 and tensor.shape[0] != self.batch for tensor in self.seen[name].inputs)

    def _passes_through(self, name: str, child: str) -> bool:
        ours, theirs = self.seen[name], self.seen[child]
        unchanged = same_tensors(ours.outputs, theirs.outputs) and ours.versions == theirs.versions
        return same_tensors(ours.inputs, theirs.inputs) and unchanged

    def _is_chain(self, children: Sequence[str]) -> bool:
        """True if a container runs the children one after the other."""
        return _is_container(self.modules[children[0].rpartition(".")[0]])

    def _why_not(self, name: str) -> str:
        seen, module = self.seen[name], self.modules[name]
        if seen.calls == 0:
            return "never called in a forward pass"
        if seen.calls > 1 and not self._works_alike(seen):
            return f"called {seen.calls} times in a forward pass"
        if len(seen.inputs) != 1 or seen.other_arguments:
            return f"takes {len(seen.inputs)} tensors or other arguments than one tensor"
        if not seen.plain_output or len(seen.outputs) != 1:
            return "returns something other than one tensor"
        source, target = seen.inputs[0], seen.outputs[0]
        if not source.is_floating_point() or not target.is_floating_point():
            return "works on integers"
        if self._of_parts(name):
            return f"has {source.shape[0]} along its first dimension for a batch of {self.batch}"
        if source.ndim > 5:
            return f"works on {source.ndim} dimensions, the batch one of them; a layer has 2 to 5"
        if source.ndim != target.ndim or source.ndim < 2 or source.shape[0] != target.shape[0]:
            return f"turns shape {tuple(source.shape)} into {tuple(target.shape)}"
        prefix = f"{name}." if name else ""
        for parameter in module.parameters():
            if any(owner != name and not owner.startswith(prefix) for owner in self.owners[id(parameter)]):
                return "shares parameters with another submodule"
        return ""


def _is_container(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward or isinstance(module, (nn.ModuleList, nn.ModuleDict))


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _only_attends(module: nn.Module) -> bool:
    """Work without weights (pooling as a convolution, attention's products) is nothing to replace."""
    return next(module.parameters(), None) is None


def same_tensors(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
