"""All that the golden tests need of lana, as plain data.

When modules move, only this file changes: the golden data and the tests that compare with them stay.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import onnx
import pandas as pd
import torch
from click.testing import CliRunner
from places import PLACES
from torch import Tensor, nn

from lana import pipeline
from lana.cli import main
from lana.config.options import FineTuning
from lana.config.recipe import Recipe
from lana.data.loading import load_data
from lana.delivery.summary import Summary
from lana.evaluation.task import Classification
from lana.exporters.onnx_export import export_onnx
from lana.models.student import assemble, own_module
from lana.models.teacher import Teacher, load_teacher
from lana.networks.layers import Layer, find_layers
from lana.networks.mixed_precision import CPU_FP32
from lana.networks.structure import structure_key
from lana.operations.families import FAMILIES, Operation, parse_operation
from lana.operations.presets import offered
from lana.pool.ascending import measure_ascending
from lana.pool.block_training import Distillation
from lana.pool.candidates import Candidate, with_latencies
from lana.pool.distillation import distill, load_pool
from lana.pool.scoring import Scorer, losses_of, read_scores
from lana.pool.shortlist import shortlist
from lana.selection.measurement_log import MeasurementLog
from lana.selection.program import SelectionModel
from lana.selection.search import BudgetSearch
from lana.training.distributed import SingleProcess
from lana.training.finetuning import TrainingSetup, finetune
from profilers import LatencyTable

ROOT = Path(__file__).resolve().parents[2]
FAMILY_NAMES = list(FAMILIES)
torch.set_num_threads(1)


# --- the selection of a frozen table, scores and logs -----------------------------------------------------------------


def read_layers(folder: Path) -> dict[str, Layer]:
    return {name: Layer.from_json(fields) for name, fields in json.loads((folder / "layers.json").read_text()).items()}


def candidates(folder: Path) -> list[Candidate]:
    """The pool of `candidates.csv`, measured by `table.csv` and thinned out, as profiling does it."""
    layers, table = read_layers(folder), LatencyTable.read(folder / "table.csv")
    rows = {row["key"]: row for row in table_rows(folder / "table.csv")}
    frame = pd.read_csv(folder / "candidates.csv", keep_default_na=False, dtype=str)
    planned = [(layers[str(row.layer)], parse_operation(str(row.operation))) for row in frame.itertuples()]
    keys = {(str(row.layer), str(row.operation)): str(row.key) for row in frame.itertuples()}

    def build(layer: Layer, operation: Operation) -> Candidate:
        key = keys[layer.name, operation.name]
        row = rows[key]
        return Candidate(
            layer=layer,
            operation=operation.name,
            family=operation.family,
            key=key,
            parameters=row["parameters"],
            macs=row["macs"],
            operators=row["operators"],
            activations=json.loads(row["more"])["activations"],
        )

    measured, _ = measure_ascending(planned, build, lambda wave: table)
    return shortlist(with_latencies(measured, table))


class Refusal:
    """Measures nothing: whatever is not in the frozen logs is an error."""

    def latencies(self, *_: Any) -> Any:
        raise AssertionError("The search asks for a measurement that the frozen logs lack.")

    losses = latencies


def selector(
    folder: Path, teacher_ms: float, *, dropped: Sequence[Sequence[str]], refine: int, calibrate: int
) -> BudgetSearch:
    """The search over the frozen pool; whatever is not in the logs is an error. Distilling gave up `dropped`."""
    scores = losses_of(read_scores(folder / "scores.csv"), "distance")
    kept = [candidate for candidate in candidates(folder) if candidate.kept and [*candidate.pair] not in dropped]
    return BudgetSearch(
        model=SelectionModel(
            layers=[layer.name for layer in read_layers(folder).values() if len(layer.members) == 1],
            candidates=[candidate for candidate in kept if candidate.pair in scores],
            scores=scores,
            teacher_ms=teacher_ms,
            correct_scores=bool(refine),
        ),
        measurer=Refusal(),
        log=MeasurementLog.read(folder),
        refinement_students=refine,
        calibration_students=calibrate,
    )


def selected(search: BudgetSearch, name: str, budget_ms: float, count: int) -> dict[str, Any]:
    """What the search accepts for a budget, and what it proposes near it once all logs are known."""
    accepted = search.select(budget_ms, proposals=count, name=f"{name}, {budget_ms:.6g} ms")
    model = search.model
    return {
        "accepted": [dict(one.selection) for one in accepted],
        "ratios": [one.ratio for one in accepted],
        "losses": [model.known_loss(one.selection, budget_ms) for one in accepted],
        "predicted_ms": [model.predicted_ms(one.selection) for one in accepted],
        "diverse": [dict(selection) for selection in model.diverse(budget_ms, count)],
    }


def make_run(out: Path, budgets: Sequence[str], **options: Any) -> None:
    """A run with a student for every budget."""
    pipeline.compress(Recipe(budget=budgets[0], **options), out=out, quiet=True)
    for budget in budgets[1:]:
        pipeline.select(out, budget, quiet=True)


# --- layers, distilling, scoring, fine-tuning of the bundled example --------------------------------------------------


@functools.cache
def teacher_of(model: str, pretrained: bool = False) -> tuple[Teacher, dict[str, Layer]]:
    """A network and its layers and spans by name."""
    teacher = load_teacher(model, pretrained=pretrained)
    scan = find_layers(teacher.module, (teacher.example(),), max_span=3)
    return teacher, {layer.name: layer for layer in (*scan.layers, *scan.spans)}


def layers_of(model: str) -> dict[str, dict[str, Any]]:
    """Layers and spans as plain data; what few of them have is left out where it is empty."""
    layers = {name: asdict(layer) for name, layer in teacher_of(model)[1].items()}
    return {name: {key: v for key, v in one.items() if v != ()} for name, one in layers.items()}


def offered_at(model: str) -> dict[str, list[str]]:
    """What the default pool offers at every layer and span."""
    teacher, layers = teacher_of(model)
    return {
        name: [one.name for one in offered(layer, own_module(teacher.module, layer), "default")]
        for name, layer in layers.items()
    }


def distilled(folder: Path, pairs: Sequence[Sequence[str]], steps: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights of operations of `digits-resnet` after so many steps of distilling, and their scores."""
    teacher, layers = teacher_of("digits-resnet", pretrained=True)
    data, pool = load_data("digits", teacher), [(layers[layer], operation) for layer, operation in pairs]
    module = teacher.module
    distill(module, pool, data, folder, Distillation(batch_size=32, images=320, epochs=steps / 10, compute=CPU_FP32))
    operations = load_pool(module, pool, folder)
    weights = {
        f"{layer}/{operation}/{name}": tensor
        for (layer, operation), trained in operations.items()
        for name, tensor in trained.state_dict().items()
    }
    path, images = folder / "scores.csv", data.train.subset(128, 0)
    scorer = Scorer(teacher=module, split=images, task=Classification(), compute=CPU_FP32)
    rows = scorer.score(pool, operations, path=path)
    scores = {f"{row.layer}/{row.operation}/{kind}": getattr(row, kind) for row in rows for kind in SCORES}
    return weights, scores


SCORES = ("score", "standard_error", "task_loss", "feature_error")


def finetuned(folder: Path, selection: Mapping[str, str], steps: int, **options: Any) -> dict[str, Tensor]:
    """Weights of a student of `digits-resnet` after so many steps of fine-tuning."""
    teacher, layers = teacher_of("digits-resnet", pretrained=True)
    data = load_data("digits", teacher)
    torch.manual_seed(0)
    student = assemble(teacher.module, list(layers.values()), selection)
    data = replace(data, train=data.train.subset(320, 0), validation=data.validation.subset(64, 0))
    settings = FineTuning(epochs=steps / 10, batch_size=32, precision="fp32", **options)
    setup = TrainingSetup(
        teacher=teacher.module, data=data, task=Classification(), settings=settings, group=SingleProcess()
    )
    finetune(student, setup, checkpoint=folder / "training.pt")
    return student.state_dict()


# --- operations: what is exported, and structure keys -----------------------------------------------------------------


def family_of(operation: str) -> str:
    return parse_operation(operation).family


def onnx_operators(operation: str, place: str, folder: Path) -> dict[str, int]:
    """How many operators of each type the ONNX file of an operation holds before it is folded."""
    build, inputs, outputs, layout = PLACES[place]
    members = ("a", "b") if place == "span" else ("a",)
    layer = Layer(
        name="+".join(members), input_shape=inputs, output_shape=outputs, layout=layout, macs=1, members=members
    )
    torch.manual_seed(0)
    own = build().eval()
    built = parse_operation(operation).build(layer, own).eval()
    with mock.patch("lana.exporters.onnx_export.readable", lambda content, *_, **__: content):
        file = export_onnx(built, torch.randn(1, *inputs), folder / f"{operation}.onnx")
    return dict(sorted(collections.Counter(node.op_type for node in onnx.load(file).graph.node).items()))


def key_of(model: str, layer: str, operation: str) -> str:
    """The structure key of an operation at a layer, computed from the module."""
    if model == "benchmarks/staircase.py":
        name, _, width = operation.rpartition("_")
        build, _, shape_of = _staircase().BLOCKS[name]
        return structure_key(build(int(width)).eval(), (torch.randn(1, *shape_of(int(width))),))
    teacher, layers = teacher_of(model)
    found = layers[layer]
    own = own_module(teacher.module, found)
    module: nn.Module = own if operation == "teacher" else parse_operation(operation).build(found, own)
    return structure_key(module, (torch.randn(1, *found.input_shape),))


def table_rows(path: Path) -> list[dict[str, Any]]:
    return LatencyTable.read(path).rows.reset_index().to_dict("records")  # type: ignore[return-value]


@functools.cache
def _staircase() -> Any:
    spec = importlib.util.spec_from_file_location("staircase", ROOT / "benchmarks" / "staircase.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what a user reads ------------------------------------------------------------------------------------------------


def help_texts() -> dict[str, str]:
    """The help of every command, by its name."""
    found: dict[str, str] = {}

    def visit(command: click.Command, words: list[str]) -> None:
        shown = CliRunner().invoke(main, [*words[1:], "--help"], terminal_width=110, prog_name="lana")
        found[" ".join(words)] = shown.output
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            visit(inner, [*words, name])

    visit(main, ["lana"])
    return found


def unmeasured(folder: Path) -> list[dict[str, str]]:
    """The pool of a run as `candidates.csv` keeps it; the table holds all figures."""
    from lana.pool.candidates import read_candidates

    candidates = read_candidates(folder / "candidates.csv")
    return [
        {"layer": candidate.layer.name, "operation": candidate.operation, "key": candidate.key}
        for candidate in candidates
    ]


def given_up(folder: Path) -> list[list[str]]:
    """What distilling gave up, as (layer, operation)."""
    from lana.pool.distillation import read_results

    return [list(pair) for pair, result in read_results(folder / "operations").items() if result.dropped]


def summary_fields() -> list[str]:
    """The keys of `summary.json` that are not inside others."""
    return [field.name for field in fields(Summary)]


def summary_keys(out: Path) -> list[str]:
    """The keys of `summary.json`, those inside others joined by dots; layers' names are left out."""
    least = {"max_span": 1, "proposals": 1, "refine": 0, "calibrate": 8, "distill_epochs": 1, "epochs": 0.1}
    where = {"model": "digits-resnet", "data": "digits", "layers": "blocks.*", "pool": "linear_k1"}
    make_run(out, ["0.8x"], **where, **least, distill_images=64, score_images=64)
    return keys_of(json.loads((out / "students" / "0.8x" / "summary.json").read_text()))


def keys_of(value: Mapping[str, Any]) -> list[str]:
    """Nested keys; those of `selection` are names of layers, which say nothing here."""
    found = []
    for name, inner in value.items():
        found.append(name)
        if isinstance(inner, dict) and name != "selection":
            found += [f"{name}.{key}" for key in keys_of(inner)]
    return found


def pairs_of(folder: Path) -> list[tuple[str, str]]:
    """(layer, operation) of all candidates, measured or not."""
    frame = pd.read_csv(folder / "candidates.csv", dtype=str)
    return list(zip(frame["layer"], frame["operation"], strict=True))
