"""Everything that the report shows, as plain data read from a run directory; nothing is loaded or measured."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lana.common.files import read_json
from lana.common.progress import counted
from lana.errors import UserError
from lana.models.selection import Selection
from lana.pool.candidates import Offer, read_offers
from lana.pool.scoring import losses_of, read_scores
from lana.runs.run import Run
from lana.selection.measurement_log import Log, LossLog
from lana.selection.search import Selector
from lana.version import __version__
from profilers import LatencyTable

POINTS = 40


def gather(path: Path | str) -> dict[str, Any]:
    """The report's data: summaries, frontier, wholes, layers, curves, environment.

    Raises:
        UserError: the run is not finished as far as the scores.
    """
    with Run.open(path) as run:
        if "score" not in run.stages():
            raise UserError(f"The pool of {path} is not finished: there is nothing to report yet.")
        selector = read_selector(run)
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
            "teacher_ms": selector.teacher_ms,
            "layers": [_layer(selector, name) for name in selector.layers],
            "students": students,
            "frontier": [_point(selector, s) for s in _frontier(selector)],
            "wholes": _wholes(selector),
            "prediction_error": _error(selector),
            "ranking": _read(run.pool / "ranking.json"),
            "seconds": run.seconds(),
            "environment": _measured_on(run),
            "elsewhere": len(list((run.path / "students").glob("*/devices.json"))),
        }


def read_selector(run: Run) -> Selector:
    """The run's selector from its files: it solves and predicts, and cannot measure."""
    offers = [offer for offer in read_offers(run.pool / "offers.csv") if offer.kept]
    losses = losses_of(read_scores(run.scores), run.recipe().selecting.score_by)
    return Selector(
        layers=list(dict.fromkeys(offer.layer.name for offer in offers if len(offer.layer.members) == 1)),
        offers=[offer for offer in offers if offer.pair in losses],
        losses=losses,
        teacher_ms=read_json(run.pool / "teacher.json")["teacher_ms"],
        log=Log.read(run.pool / "wholes.csv"),
        measure=_cannot_measure,
        loss_log=LossLog.read(run.pool / "losses.csv"),
        measure_loss=_cannot_measure,
        refine=run.recipe().selecting.refine,
    )


def _measured_on(run: Run) -> dict[str, Any]:
    """Where the latency table was measured: not where the report is written."""
    if not run.table.is_file():
        return {}
    header = LatencyTable.read(run.table).header
    return {"device": header.device, **header.environment}


def _cannot_measure(*_: Any) -> NoReturn:
    raise UserError("A report measures nothing. Use: lana select RUN")


def _finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def _student(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = read_json(folder / "summary.json")
    curve = folder / "training.csv"
    rows = list(csv.DictReader(curve.read_text().splitlines())) if curve.is_file() else []
    return {**summary, "curve": [{name: float(value or "nan") for name, value in row.items()} for row in rows]}


def _layer(selector: Selector, name: str) -> dict[str, Any]:
    here = [offer for offer in selector.offers if offer.layer.name == name]
    return {
        "name": name,
        "shape": "×".join(map(str, here[0].layer.input_shape)),
        "operations": {offer.operation: _operation(selector, offer) for offer in here},
    }


def _operation(selector: Selector, offer: Offer) -> dict[str, float]:
    return {
        "ms": selector.prediction().part_ms(offer.columns),
        "loss": selector.losses[offer.pair],
    }


def _frontier(selector: Selector) -> list[Selection]:
    """The best selection within each of evenly spaced latencies, each by losses corrected around that one."""
    budgets = np.linspace(selector.predicted_ms(selector.fastest()), selector.teacher_ms, POINTS)
    found = [selector.solve(float(budget)) for budget in budgets]
    return list(dict.fromkeys(selection for selection in found if selection is not None))


def _point(selector: Selector, selection: Selection) -> dict[str, Any]:
    """`covered` names the span that stands for a layer."""
    return {
        "ms": selector.predicted_ms(selection),
        "loss": selector.expected_loss(selection),
        "selection": dict(selection),
        "covered": {
            layer: f"{offer.operation} for {offer.layer.name}"
            for layer, offer in selector.standing(selection).items()
            if len(offer.layer.members) > 1
        },
    }


def _wholes(selector: Selector) -> list[dict[str, float]]:
    return [
        {
            "measured_ms": measured.ratio * selector.teacher_ms,
            "predicted_ms": selector.predicted_ms(measured.selection),
            "loss": selector.expected_loss(measured.selection),
        }
        for measured in selector.log.pooled()
        if all((layer, operation) in selector.losses for layer, operation in measured.selection.items())
    ]


def _error(selector: Selector) -> dict[str, float] | None:
    found = selector.prediction_error()
    return None if found is None else vars(found)


def _read(path: Path) -> Any:
    return read_json(path, None)
