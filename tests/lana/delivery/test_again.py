"""A delivered student over its budget is chosen again; the stages themselves are stand-ins."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import pytest
from made_summary import make_summary

from lana.delivery import again
from lana.delivery.again import deliver_within_budget, next_budget_ms
from lana.delivery.summary import Summary
from lana.errors import BudgetUnreachable
from lana.models.selection import Selection
from lana.runs.run import Run

NOWHERE = {"processes": 5, "calm": 0, "waited": 0.7, "noticed_by": "switches", "disturbed": True}


class Stages:
    """Selects a student for whatever is asked, and finds it at the next of some upper bounds; the budget is 1 ms."""

    def __init__(self, folder, monkeypatch, uppers, **changes):
        self.folder, self.uppers, self.changes, self.asked = folder, list(uppers), changes, []
        for name in ("select_student", "finetune_student", "deliver"):
            monkeypatch.setattr(again, name, getattr(self, name))

    def select_student(self, context, baseline, pool, search, name, within=None):
        folder = self.folder / name
        if not folder.exists():
            if not self.uppers:
                raise BudgetUnreachable("No selection.", fastest_ms=1.0)
            self.asked.append(within and round(within.budget_ms, 4))
            folder.mkdir()
        return folder

    def finetune_student(self, context, folder):
        pass

    def deliver(self, context, baseline, folder):
        path = folder / "summary.json"
        if not path.exists():
            upper = self.uppers.pop(0)
            summary = make_summary(measured_ms_upper95=upper, verified=upper <= 1, student=folder.name, **self.changes)
            path.write_text(json.dumps(dataclasses.asdict(summary)))
        return Summary.read(path)

    def run(self, **options):
        context = SimpleNamespace(run=SimpleNamespace(student=lambda name: self.folder / name))
        search = SimpleNamespace(model=SimpleNamespace(measured={}, teacher_ms=2.0))
        return deliver_within_budget(context, None, None, search, "0.5x", **options)

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())


@pytest.mark.parametrize(
    ("uppers", "asked", "verified"),
    [
        ([0.98], [None], True),
        ([1.05, 0.98], [None, round(1 / 1.05, 4)], True),
        ([1.05, 1.02, 0.98], [None, round(1 / 1.05, 4), round(1 / 1.02, 4)], True),
        ([1.05, 1.02, 1.01], [None, round(1 / 1.05, 4), round(1 / 1.02, 4)], False),  # no more than twice
    ],
)
def test_the_next_lower_one_is_chosen(tmp_path, monkeypatch, uppers, asked, verified):
    stages = Stages(tmp_path, monkeypatch, uppers)
    summary = stages.run()
    assert summary.verified == verified
    assert summary.student == "0.5x"
    assert stages.asked == asked
    assert stages.names() == ["0.5x", *(f"0.5x-over-budget-{i}" for i in range(1, len(uppers)))]
    assert stages.run() == summary  # the same command again changes nothing
    assert stages.asked == asked


def test_the_one_before_keeps_its_figures_under_its_new_name(tmp_path, monkeypatch):
    Stages(tmp_path, monkeypatch, [1.05, 0.98]).run()
    before = Summary.read(tmp_path / "0.5x-over-budget-1" / "summary.json")
    assert (before.student, before.measured_ms_upper95) == ("0.5x-over-budget-1", 1.05)


def test_it_is_kept_where_that_is_told(tmp_path, monkeypatch):
    stages = Stages(tmp_path, monkeypatch, [1.05, 0.98])
    assert stages.run(keep=True).over_budget
    assert stages.names() == ["0.5x"]


def test_what_was_disturbed_is_not_chosen_again(tmp_path, monkeypatch):
    stages = Stages(tmp_path, monkeypatch, [1.05, 0.98], measuring=NOWHERE)
    assert not stages.run().verified
    assert stages.names() == ["0.5x"]


def test_where_nothing_is_lower_the_last_one_is_delivered(tmp_path, monkeypatch):
    stages = Stages(tmp_path, monkeypatch, [1.05])
    summary = stages.run()
    assert summary.over_budget
    assert summary.student == "0.5x"
    assert stages.names() == ["0.5x"]


def test_what_the_search_accepted_is_below_what_it_accepts_next():
    selection = Selection({"a": "half"})
    model = SimpleNamespace(measured={selection: SimpleNamespace(ratio=0.45)}, teacher_ms=2.0)
    summary = make_summary(measured_ms_upper95=1.01, verified=False, selection={"a": "half"})
    assert next_budget_ms(summary, SimpleNamespace(model=model)) == pytest.approx(0.995 * 0.9)


@pytest.mark.parametrize("killed_at", ["next_budget_ms", "_called", "rename", "unlink"])
def test_killed_while_it_is_set_aside_the_same_command_goes_on(tmp_path, monkeypatch, killed_at):
    """The folder counts as unfinished until then, so that a search without a name takes no other."""
    stages, run = Stages(tmp_path, monkeypatch, [1.05, 0.98]), Run(tmp_path)
    monkeypatch.setattr(run, "student", lambda name: tmp_path / name)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path if killed_at in ("rename", "unlink") else again, killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            stages.run()
    assert not run.delivered("0.5x")
    summary = stages.run()
    assert (summary.student, summary.verified) == ("0.5x", True)
    assert stages.names() == ["0.5x", "0.5x-over-budget-1"]
    assert run.delivered("0.5x")
    assert run.delivered("0.5x-over-budget-1")
    assert not list(tmp_path.rglob("choosing"))
