"""Everything that the report shows, as plain data read from a run directory; nothing is loaded or measured."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lana.common.files import explain_damage, read_json
from lana.common.progress import counted
from lana.delivery.summary import Summary
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing
from lana.models.selection import Selection
from lana.pool.candidates import Candidate, read_candidates
from lana.pool.scoring import losses_of, read_scores, saturation
from lana.report.expected_accuracy import ExpectedAccuracy, fit_accuracy
from lana.runs.baseline import read_baseline
from lana.runs.run import Run
from lana.selection.measurement_log import MeasurementLog
from lana.selection.program import SelectionModel
from lana.version import __version__
from profilers import LatencyTable

FRONTIER_POINTS = 40


def gather(path: Path | str) -> dict[str, Any]:
    """The report's data: summaries, frontier, measured networks, layers, curves, environment.

    Raises:
        UserError: the run is not finished as far as the scores.
    """
    with Run.open(path) as run:
        if "score" not in run.stages():
            raise UserError(f"The pool of {path} is not finished: there is nothing to report yet.")
        model = read_model(run)
        students = [_student(folder) for folder in sorted((run.path / "students").glob("*")) if _finished(folder)]
        expected = fit_accuracy([(model.expected_loss(s), own, teacher) for s, own, teacher in _tuned(model, students)])
        recipe = run.recipe()
        profiling = recipe.profiling
        return {
            "version": __version__,
            "run": shlex.quote(str(path)),
            "model": recipe.teacher.model,
            "data": recipe.teacher.data,
            "recipe": recipe.to_yaml(),
            "runtime": f"{profiling.runtime}, {counted(profiling.threads, 'thread')}, batch {profiling.batch}",
            "teacher_ms": model.teacher_ms,
            "layers": [_layer(model, name) for name in model.layers],
            "students": students,
            "frontier": _frontier(model, expected),
            "expected_accuracy": None if expected is None else vars(expected),
            "start": _start(students),
            "measured": _measured_networks(model),
            "prediction_error": _error(model),
            "ranking": _read(run.pool / "ranking.json"),
            "seconds": run.seconds(),
            "environment": _measured_on(run),
            "elsewhere": len(list((run.path / "students").glob("*/devices.json"))),
        }


def read_model(run: Run) -> SelectionModel:
    """The files of a run as the model that predicts and solves."""
    candidates = [candidate for candidate in read_candidates(run.pool / "candidates.csv") if candidate.kept]
    scores = losses_of(read_scores(run.scores), run.recipe().selecting.score_by)
    model = SelectionModel(
        layers=list(
            dict.fromkeys(candidate.layer.name for candidate in candidates if len(candidate.layer.members) == 1)
        ),
        candidates=[candidate for candidate in candidates if candidate.pair in scores],
        scores=scores,
        teacher_ms=read_baseline(run).teacher_ms,
        correct_scores=bool(run.recipe().selecting.refine),
        saturation=saturation(read_scores(run.scores)),
    )
    return model.informed_by(MeasurementLog.read(run.pool))


def _measured_on(run: Run) -> dict[str, Any]:
    """Where the latency table was measured: not where the report is written."""
    if not run.table.is_file():
        return {}
    header = LatencyTable.read(run.table).header
    return {"device": header.device, **header.environment}


def _finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def _student(folder: Path) -> dict[str, Any]:
    summary, curve = Summary.read(folder / "summary.json"), folder / "training.csv"
    with explain_damage(curve):
        rows = list(csv.DictReader(curve.read_text().splitlines())) if curve.is_file() else []
        learnt = [{name: float(value or "nan") for name, value in row.items()} for row in rows]
    fed = str(Preprocessing(**summary.preprocessing)) if summary.preprocessing else None
    return {**dataclasses.asdict(summary), "ruin": summary.ruin, "curve": learnt, "fed": fed}


def _tuned(model: SelectionModel, students: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Selection, float, float]]:
    """The tuned students that the model knows, each with its accuracy and its teacher's; untuned ones where none is."""
    for student in [one for one in students if one["seconds"].get("finetune")] or students:
        selection = Selection(student["selection"])
        if selection and student["student_accuracy"] is not None and model.knows(selection):
            yield selection, student["student_accuracy"], student["teacher_accuracy"]


def _start(students: Sequence[Mapping[str, Any]]) -> float | None:
    """Milliseconds predicted for the first student, at which the slider starts."""
    return next((one["predicted_ms"] for one in students if one["predicted_ms"] is not None), None)


def _layer(model: SelectionModel, name: str) -> dict[str, Any]:
    candidates = [candidate for candidate in model.candidates if candidate.layer.name == name]
    return {
        "name": name,
        "shape": "×".join(map(str, candidates[0].layer.input_shape)),
        "operations": {candidate.operation: _operation(model, candidate) for candidate in candidates},
    }


def _operation(model: SelectionModel, candidate: Candidate) -> dict[str, float]:
    return {
        "ms": model.prediction.part_ms(candidate.columns),
        "loss": model.scores[candidate.pair],
    }


def _frontier(model: SelectionModel, expected: ExpectedAccuracy | None) -> list[dict[str, Any]]:
    """The best selection within each of evenly spaced latencies, each by losses corrected around that one.

    A slower selection that is expected to lose more, by the corrections around another latency, is left out.
    """
    budgets = np.linspace(model.predicted_ms(model.fastest()), model.teacher_ms, FRONTIER_POINTS)
    selections = [model.solve(float(budget)) for budget in budgets]
    distinct = dict.fromkeys(selection for selection in selections if selection is not None)
    points = sorted((_point(model, one, expected) for one in distinct), key=lambda point: point["ms"])
    least = itertools.accumulate((point["loss"] for point in points), min)
    before = itertools.chain([math.inf], least)
    return [point for point, lower in zip(points, before, strict=False) if point["loss"] < lower]


def _point(model: SelectionModel, selection: Selection, expected: ExpectedAccuracy | None) -> dict[str, Any]:
    """`covered` names the span that replaces a layer."""
    loss = max(0.0, model.expected_loss(selection))  # the teacher's is 0
    return {
        "ms": model.predicted_ms(selection),
        "loss": loss,
        "accuracy": None if expected is None else expected.at(loss),
        "selection": dict(selection),
        "covered": {
            layer: f"{candidate.operation} for {candidate.layer.name}"
            for layer, candidate in model.covering(selection).items()
            if len(candidate.layer.members) > 1
        },
    }


def _measured_networks(model: SelectionModel) -> list[dict[str, float]]:
    return [
        {
            "measured_ms": measured.ratio * model.teacher_ms,
            "predicted_ms": model.predicted_ms(measured.selection),
            "loss": model.expected_loss(measured.selection),
        }
        for measured in model.measured.values()
        if model.knows(measured.selection)
    ]


def _error(model: SelectionModel) -> dict[str, float] | None:
    error = model.prediction_error()
    return None if error is None else vars(error)


def _read(path: Path) -> Any:
    return read_json(path, None)
