"""Everything that the report shows, as plain data read from a run directory; nothing is loaded or measured."""

from __future__ import annotations

import csv
import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from lana.common.files import explain_damage, read_json
from lana.common.progress import counted
from lana.delivery.summary import Summary
from lana.errors import UserError
from lana.models.selection import Selection
from lana.pool.candidates import Candidate, read_candidates
from lana.pool.scoring import losses_of, read_scores
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
            "frontier": [_point(model, s) for s in _frontier(model)],
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
    return {**dataclasses.asdict(summary), "ruin": summary.ruin, "curve": learnt}


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


def _frontier(model: SelectionModel) -> list[Selection]:
    """The best selection within each of evenly spaced latencies, each by losses corrected around that one."""
    budgets = np.linspace(model.predicted_ms(model.fastest()), model.teacher_ms, FRONTIER_POINTS)
    selections = [model.solve(float(budget)) for budget in budgets]
    return list(dict.fromkeys(selection for selection in selections if selection is not None))


def _point(model: SelectionModel, selection: Selection) -> dict[str, Any]:
    """`covered` names the span that replaces a layer."""
    return {
        "ms": model.predicted_ms(selection),
        "loss": model.expected_loss(selection),
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
