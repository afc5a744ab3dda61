"""A student that measures over its budget once it is delivered is chosen again: the next lower selection, tuned."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

from lana.common.files import check_types, explain_damage, read_json, write_json
from lana.config.folders import CHOSEN_AGAIN, set_aside
from lana.delivery.deliver import deliver
from lana.delivery.finetune import finetune_student
from lana.delivery.summary import Summary
from lana.errors import BudgetUnreachable
from lana.models.selection import Selection
from lana.pool.stages import Pool
from lana.runs.baseline import Baseline
from lana.runs.context import RunContext
from lana.runs.run import CHOOSING
from lana.selection.search import BudgetSearch
from lana.selection.stage import Lowered, select_student

logger = logging.getLogger(__name__)

NEXT_LOWER = 0.995  # of the latency that the search knew: what was over the budget is not accepted again


def deliver_within_budget(
    context: RunContext,
    baseline: Baseline,
    pool: Pool,
    search: BudgetSearch,
    name: str,
    *,
    keep: bool = False,
    selected: bool = False,
) -> Summary:
    """Select, fine-tune and deliver the student `name`, again where undisturbed measurements say it is over its budget.

    The one before stays beside it as NAME-over-budget-1. With `keep` the first is delivered as it is. One that is
    `selected` is taken as it was, whatever options selected it. A file marks the folder while it may be set aside: the
    same command goes on there after a kill.
    """
    folder = context.run.student(name)
    mark = folder / CHOOSING
    while True:
        before, lowered = set_aside(folder), None
        for aside in before:  # killed just after it was renamed
            (aside / CHOOSING).unlink(missing_ok=True)
        if before:
            lowered = Lowered(budget_ms=_next_ms(before[-1]), turn=len(before))
        try:
            if not (selected and (folder / "selection.json").is_file()):
                select_student(context, baseline, pool, search, name, within=lowered)
        except BudgetUnreachable:
            if not before:
                raise
            return _taken_back(before[-1], folder)
        if not (folder / "summary.json").is_file():
            mark.touch()
        finetune_student(context, folder)
        summary = deliver(context, baseline, folder)
        if keep or not summary.over_budget or len(before) == CHOSEN_AGAIN:
            mark.unlink(missing_ok=True)
            return summary if summary.student == name else _called(folder, name)
        mark.touch()
        write_json(folder / "over_budget.json", {"next_ms": next_budget_ms(summary, search)})
        _set_aside(folder, folder.with_name(f"{name}-over-budget-{len(before) + 1}"))


def _set_aside(folder: Path, aside: Path) -> None:
    logger.info(
        f"{folder.name} measures over its budget: it is kept as {aside.name}, and the next lower one is chosen."
    )
    _called(folder, aside.name)
    folder.rename(aside)
    (aside / CHOOSING).unlink()


def _taken_back(aside: Path, folder: Path) -> Summary:
    """The one that was set aside under its name again, where there is no other."""
    logger.info(f"Nothing lower than {folder.name} is accepted: it stays over its budget.")
    (aside / CHOOSING).touch()
    if folder.exists():  # of an attempt that was killed before it selected
        shutil.rmtree(folder)
    aside.rename(folder)
    summary = _called(folder, folder.name)
    (folder / CHOOSING).unlink()
    return summary


def _next_ms(aside: Path) -> float:
    path = aside / "over_budget.json"
    content = read_json(path)
    with explain_damage(path):
        check_types({"next_ms": content["next_ms"]}, {"next_ms": float})
        return float(content["next_ms"])


def next_budget_ms(summary: Summary, search: BudgetSearch) -> float:
    """The budget that the next one is searched for: lower by as much as this one is over it, and below its latency."""
    upper_ms = summary.measured_ms_upper95 or summary.budget_ms
    known = search.model.measured.get(Selection(summary.selection))
    known_ms = known.ratio * search.model.teacher_ms if known is not None else summary.budget_ms
    return min(summary.budget_ms**2 / upper_ms, NEXT_LOWER * known_ms)


def _called(folder: Path, name: str) -> Summary:
    """The summary of a student, under another name."""
    summary = dataclasses.replace(Summary.read(folder / "summary.json"), student=name)
    write_json(folder / "summary.json", dataclasses.asdict(summary))
    return summary
