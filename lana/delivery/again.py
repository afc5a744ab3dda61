"""A student that measures over its budget once it is delivered is chosen again: the next lower selection, tuned."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from lana.common.files import read_json, write_json
from lana.delivery.deliver import deliver
from lana.delivery.finetune import finetune_student
from lana.delivery.summary import Summary
from lana.errors import BudgetUnreachable
from lana.models.selection import Selection
from lana.pool.stages import Pool
from lana.runs.baseline import Baseline
from lana.runs.context import RunContext
from lana.selection.search import BudgetSearch
from lana.selection.stage import Lowered, select_student

logger = logging.getLogger(__name__)

CHOSEN_AGAIN = 2  # times at most
NEXT_LOWER = 0.995  # of the latency that the search knew: what was over the budget is not accepted again


def deliver_within_budget(
    context: RunContext, baseline: Baseline, pool: Pool, search: BudgetSearch, name: str, *, keep: bool = False
) -> Summary:
    """Select, fine-tune and deliver the student `name`, again where undisturbed measurements say it is over its budget.

    The one before stays beside it as NAME-over-budget-1. With `keep` the first is delivered as it is.
    """
    folder = context.run.student(name)
    while True:
        before = [aside for turn in range(1, CHOSEN_AGAIN + 1) if (aside := _aside(folder, turn)).is_dir()]
        lowered = None
        if before:
            lowered = Lowered(budget_ms=read_json(before[-1] / "over_budget.json")["next_ms"], turn=len(before))
        try:
            student = select_student(context, baseline, pool, search, name, within=lowered)
        except BudgetUnreachable:
            if not before:
                raise
            before[-1].rename(folder)
            logger.info(f"Nothing lower than {name} is accepted: it stays over its budget.")
            return _called(folder, name)
        finetune_student(context, student)
        summary = deliver(context, baseline, student)
        if keep or not summary.over_budget or len(before) == CHOSEN_AGAIN:
            return summary
        aside = _aside(folder, len(before) + 1)
        logger.info(f"{name} measures over its budget: it is kept as {aside.name}, and the next lower one is chosen.")
        write_json(folder / "over_budget.json", {"next_ms": next_budget_ms(summary, search)})
        _called(folder, aside.name)
        folder.rename(aside)


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


def _aside(folder: Path, turn: int) -> Path:
    return folder.with_name(f"{folder.name}-over-budget-{turn}")
