"""Wrong inputs that are content: measurements of a device, weights, data functions."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from grammars import GARBAGE, Case
from safetensors.torch import save
from workplace import Workplace

# --- measurements ----------------------------------------------------------------------------------------------------


def measurements(place: Workplace, rng: random.Random) -> Iterator[Case]:
    """Measurements that came back from a device, with a part that lacks or a figure that cannot be."""
    path, table = place.out / "measurements.json", place.out / f"{place.measured['label']}.csv"
    command = ("select", str(place.run), "--table", str(table), "--budget-ms", "1", "--measured", str(path))
    held = {table: place.table.read_bytes()}
    contents: list[Any] = [*GARBAGE, b"[]", b"null", b"3", b'"x"', b"{}", json.dumps(place.measured).encode()[:-9]]
    wrong: list[Any] = [0, -0.3, None, "x", [], {}, float("nan"), float("inf"), 1e-9, True, 10**400]
    for name in place.measured:
        if name != "environment":
            contents += [{key: value for key, value in place.measured.items() if key != name}]
            contents += [{**place.measured, name: value} for value in (None, 3, [], {}, True)]
    for _ in range(110):
        network = dict(rng.choice(place.measured["networks"]))
        figures, value = rng.choice(["ratios", "reference_ms"]), rng.choice(wrong)
        at = rng.randrange(len(network[figures]))
        changed = [*network[figures][:at], value, *network[figures][at + 1 :]]
        if figures == "reference_ms" and value == 1e-9:
            continue
        network[figures] = rng.choice([changed, changed, changed, value, network[figures][1:]])
        if network[figures] != []:
            contents.append({**place.measured, "networks": [network]})
    contents += [{**place.measured, "networks": place.measured["networks"] * 2}]
    for content in contents:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        yield Case(kind="measurements", arguments=command, files={**held, path: raw})


# --- weights ---------------------------------------------------------------------------------------------------------


class _Pickled:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (print, ("this ran",))


def weights(place: Workplace, rng: random.Random) -> Iterator[Case]:
    """A file of weights that is none, or of another network."""
    state = place.state()
    names = list(state)
    raws: list[tuple[str, bytes]] = [(suffix, raw) for raw in GARBAGE for suffix in ("pt", "safetensors", "bin")]
    whole = save(state)
    raws += [("safetensors", whole[: rng.randrange(8, len(whole) - 1)]) for _ in range(15)]
    raws += [("pt", (packed := _packed(state))[: rng.randrange(1, len(packed) - 1)]) for _ in range(15)]
    wrong: list[Any] = [[], 3, "x", None, {}, {"x": 1}, torch.zeros(3), [state], {"state_dict": 3}, {1: 2}, _Pickled()]
    raws += [("pt", _packed(value)) for value in wrong]
    for _ in range(50):
        name = rng.choice([one for one in names if state[one].ndim])
        changed = dict(state)
        tensor = changed.pop(name)
        kind = rng.randrange(4)
        if kind == 1:
            changed[name + ".more"] = tensor.clone()
        elif kind == 2:
            changed[name] = torch.zeros(*tensor.shape, 2)
        elif kind == 3:
            changed = {f"{one}.{rng.randrange(9)}": value.clone() for one, value in state.items()}
        raws += [("safetensors", save(changed)), ("pt", _packed(changed))]
    for suffix, raw in raws:
        path = place.out / f"net.{suffix}"
        command = ("evaluate", "digits-resnet", "--data", "digits", "--weights", str(path))
        yield Case(kind="weights", arguments=command, files={path: raw})


def _packed(value: Any) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory)
    return memory.getvalue()


# --- data functions --------------------------------------------------------------------------------------------------

RETURNED = [
    "None", "3", "'x'", "{}", "{'train': part}", "[]", "[1, 2]", "[(x,)] * 9", "[(x, 0, 0)] * 0", "(p for p in part)",
    "set()", "part, part, part, part", "[part, part]", "[(x, 'cat')] * 40", "[(x, None)] * 40", "[('x', 0)] * 40",
    "[(None, 0)] * 40", "[(x.int(), 0)] * 40", "[(x[0], 0)] * 40", "[(torch.zeros(3, 16, 16), 0)] * 40",
    "[(torch.zeros(0), 0)] * 40", "[(x, 0), (x[:, 1:], 0)] * 20", "[(x, 10)] * 40", "[(x, 0.5)] * 40",
    "[(x, -1)] * 40", "[(x, torch.zeros(2))] * 40", "[(x, 99999999999)] * 40", "[(x, n % 10) for n in range(1)]",
    "iter(part)", "object()", "torch.utils.data.DataLoader(part)", "lambda: part", "part, 3",
    "part, part, 'x'", "(part, [])", "load",
    "np.zeros((40, 16, 16))",
]  # fmt: skip
RAISED = [
    "raise ValueError('x' * 9000)", "sys.exit(0)", "raise SystemExit", "1 / 0", "import missing_module", "load()",
    "assert False", "raise type('Own', (BaseException,), {})('an end')", "open('/nowhere')", "raise MemoryError",
    "exec('x = (')", "return undefined", "raise StopIteration", "raise Exception", "{}['x']",
    "raise OSError(28, 'full')", "torch.zeros(2) + torch.zeros(3)",
    "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'no')", "raise RecursionError",
]  # fmt: skip
METHODS = [
    ("__len__", "return 'x'"), ("__len__", "return -1"), ("__len__", "sys.exit(0)"), ("__len__", "return 40.5"),
    ("__len__", "return 10**30"), ("__getitem__", "return None"), ("__getitem__", "return 3"), ("__len__", "1 / 0"),
    ("__getitem__", "sys.exit(0)"), ("__getitem__", "raise IndexError"), ("__getitem__", "return x, y, z"),
    ("__getitem__", "return (x, 0) if index < 30 else 1 / 0"), ("__getitem__", "return (x, 0) if index else (x[0], 0)"),
]  # fmt: skip
SOURCE = """import sys
import numpy as np
import torch
x = torch.zeros(1, 16, 16)
part = [(x + n, n % 10) for n in range(40)]
class Own:
    def __len__(self): return 40
    def __getitem__(self, index): return part[index]
    {method}
def load():
    {body}
"""
BROKEN = [
    "def load(:",
    "x = (",
    "import missing_module",
    "raise ValueError",
    "\x00",
    "sys.exit(0)",
    "def other(): pass",
]


def data_functions(place: Workplace, rng: random.Random) -> Iterator[Case]:
    """A data function that fails, ends the program or returns what no data is."""
    sources = [SOURCE.format(method="", body=f"return {value}") for value in RETURNED]
    sources += [SOURCE.format(method="", body=line) for line in RAISED]
    for name, line in METHODS:
        method = f"def {name}(self{', index' if name == '__getitem__' else ''}): {line}"
        sources.append(SOURCE.format(method=method, body="return Own()"))
    for value in RETURNED[:30]:  # a test part that is wrong beside a train part that is right
        if value not in ("None", "[part, part]", "part, part, part, part", "[(x, n % 10) for n in range(1)]"):
            sources.append(SOURCE.format(method="", body=f"return part, {value}"))
    sources += BROKEN
    for number, source in enumerate(sources):
        path = place.out / f"data{number % 7}.py"
        command = ("evaluate", "digits-resnet", "--data", f"{path}:load")
        yield Case(kind="data functions", arguments=command, files={path: source.encode()})
