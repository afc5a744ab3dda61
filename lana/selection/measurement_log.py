"""The logs of measured students: latencies and losses, replayed so that a repeated search decides alike."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lana.common.files import write_atomically
from lana.models.selection import Selection
from lana.runs.baseline import PROCESSES
from profilers.comparison import Comparison, upper_bound_95


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A selection's latency as its ratio to the teacher measured beside it, one ratio a fresh process."""

    selection: Selection
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def ratio_upper95(self) -> float:
        """The one-sided 95% bound over processes; with fewer than `PROCESSES` of them nothing is bounded."""
        return upper_bound_95(self.ratios) if len(self.ratios) >= PROCESSES else float("inf")


@dataclass
class Log:
    """All measurements of a run, in the order they were taken, kept as CSV at `path`.

    A loop (one search for one student) that is repeated must decide as it did the first time, so `replay` shows it
    what it knew then, and gives it its own measurements again, batch by batch, instead of new ones.
    """

    path: Path
    rows: list[Measured] = field(default_factory=list)  # what is known so far
    loop: str = ""
    _all: list[tuple[str, Measured]] = field(default_factory=list)
    _again: list[Measured] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Log:
        import pandas as pd

        if not path.is_file():
            return cls(path)
        frame = pd.read_csv(path, keep_default_na=False)
        entries = [
            (str(loop), Measured(selection=Selection(json.loads(selection)), ratios=tuple(json.loads(ratios))))
            for loop, selection, ratios in zip(frame["loop"], frame["selection"], frame["ratios"], strict=True)
        ]
        return cls(path, [row for _, row in entries], _all=entries)

    def replay(self, loop: str) -> Log:
        """The log as it was when this loop began."""
        loops = [name for name, _ in self._all]
        begin = loops.index(loop) if loop in loops else len(loops)
        own = [row for name, row in self._all[begin:] if name == loop]
        return Log(self.path, [row for _, row in self._all[:begin]], loop, self._all, own)

    def take(self, selections: Sequence[Selection]) -> bool:
        """Know again what this loop measured of these selections when it ran before; False where it did not."""
        count = len(selections)
        if [row.selection for row in self._again[:count]] != list(selections):
            self._again = []
            return False
        self.rows += self._again[:count]
        self._again = self._again[count:]
        return True

    def add(self, selections: Sequence[Selection], comparisons: Sequence[Comparison]) -> None:
        """Append measurements and write the log."""
        import pandas as pd

        new = [
            Measured(selection=selection, ratios=tuple(round(ratio, 5) for ratio in comparison.ratios))
            for selection, comparison in zip(selections, comparisons, strict=True)
        ]
        self.rows += new
        self._all += [(self.loop, row) for row in new]
        frame = pd.DataFrame(
            {
                "loop": [loop for loop, _ in self._all],
                "ratio": [round(row.ratio, 5) for _, row in self._all],
                "ratios": [json.dumps(row.ratios) for _, row in self._all],
                "selection": [json.dumps(dict(row.selection)) for _, row in self._all],
            }
        )
        write_atomically(self.path, lambda beside: frame.to_csv(beside, index=False))

    def of(self, selection: Selection) -> Measured | None:
        """Everything measured of a selection, pooled over the times that it was measured."""
        ratios = [ratio for row in self.rows if row.selection == selection for ratio in row.ratios]
        return Measured(selection=selection, ratios=tuple(ratios)) if ratios else None

    def pooled(self) -> list[Measured]:
        """One entry a selection, in the order of first measurement."""
        return [
            Measured(selection=rows[0].selection, ratios=tuple(ratio for row in rows for ratio in row.ratios))
            for rows in self._by_selection()
        ]

    def apart(self) -> list[float]:
        """How far measurements of one selection lie from those of it before, as shares."""
        return [
            abs(later.ratio / before.ratio - 1)
            for rows in self._by_selection()
            for before, later in itertools.pairwise(rows)
        ]

    def _by_selection(self) -> Iterable[list[Measured]]:
        found: dict[Selection, list[Measured]] = {}
        for row in self.rows:
            found.setdefault(row.selection, []).append(row)
        return found.values()


@dataclass
class LossLog:
    """Measured losses of whole students, kept as CSV at `path`, in the order they were measured.

    Losses are exact for a run's weights, so a loop that is repeated takes them from here; but it is shown only what
    it knew then (`replay`), so that it decides as it did.
    """

    path: Path
    loop: str = ""
    rows: list[tuple[Selection, float]] = field(default_factory=list)
    _all: list[tuple[str, Selection, float]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> LossLog:
        import pandas as pd

        if not path.is_file():
            return cls(path)
        frame = pd.read_csv(path, keep_default_na=False)
        found = [
            (str(loop), Selection(json.loads(selection)), float(loss))  # "inf" as well
            for loop, loss, selection in zip(frame["loop"], frame["loss"], frame["selection"], strict=True)
        ]
        return cls(path, rows=[(selection, loss) for _, selection, loss in found], _all=found)

    def replay(self, loop: str) -> LossLog:
        """The log as it was when this loop began."""
        loops = [name for name, _, _ in self._all]
        begin = loops.index(loop) if loop in loops else len(loops)
        return LossLog(self.path, loop, [(selection, loss) for _, selection, loss in self._all[:begin]], self._all)

    def of(self, selection: Selection) -> float | None:
        """The loss of a selection, where this loop knows it."""
        return next((loss for known, loss in self.rows if known == selection), None)

    def ever(self, selection: Selection) -> float | None:
        """The loss of a selection, whoever measured it."""
        return next((loss for _, known, loss in self._all if known == selection), None)

    def add(self, selections: Sequence[Selection], losses: Sequence[float]) -> None:
        """Take in measured losses and write those that are new."""
        import pandas as pd

        known = [round(loss, 6) if math.isfinite(loss) else math.inf for loss in losses]  # nothing is worse than nan
        new = list(zip(selections, known, strict=True))
        self.rows += new
        fresh = [(self.loop, selection, loss) for selection, loss in new if self.ever(selection) is None]
        if not fresh:
            return
        self._all += fresh
        names, kept, values = zip(*self._all, strict=True)
        frame = pd.DataFrame({"loop": names, "loss": values, "selection": [json.dumps(dict(s)) for s in kept]})
        write_atomically(self.path, lambda beside: frame.to_csv(beside, index=False))
