"""The logs of measured students: latencies and losses, replayed so that a repeated search decides alike."""

from __future__ import annotations

import functools
import itertools
import json
import math
import operator
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from lana.common.files import explain_damage, missing_rows, read_records, write_records
from lana.errors import UserError
from lana.models.selection import Selection
from lana.runs.baseline import PROCESSES
from lana.selection.confidence import upper_bound_95
from profilers import Comparison
from profilers.table_columns import is_positive

LEAST_CALM = 2  # calm processes; with fewer nothing is known of the machine without its disturbance


class Measurement(Protocol):
    """A row of a log."""

    @property
    def selection(self) -> Selection: ...

    def columns(self) -> dict[str, Any]:
        """What the CSV file holds of it, besides the selection."""

    @classmethod
    def from_columns(cls, selection: Selection, columns: dict[str, Any]) -> Self: ...


@dataclass(frozen=True, kw_only=True)
class MeasuredLatency:
    """A selection's latency as its ratio to the teacher measured beside it, one ratio a fresh process.

    `calm` tells for each whether no other process disturbed it, `waited` the share of its time that the process waited
    for a processor, `watched` how that was noticed. Logs of before hold none of the three: all count as calm.
    """

    selection: Selection
    ratios: tuple[float, ...]
    calm: tuple[bool, ...] = ()
    waited: tuple[float, ...] = ()
    watched: str = ""

    @classmethod
    def of(cls, selection: Selection, comparison: Comparison) -> Self:
        """A comparison with the teacher, as that of a selection."""
        return cls(
            selection=selection,
            ratios=tuple(round(ratio, 5) for ratio in comparison.ratios),
            calm=comparison.calm,
            waited=comparison.waited,
            watched=comparison.watched,
        )

    @property
    def calm_ratios(self) -> tuple[float, ...]:
        return tuple(itertools.compress(self.ratios, self.calm)) if self.calm else self.ratios

    @property
    def disturbed(self) -> bool:
        """True if calm never came."""
        return len(self.calm_ratios) < min(LEAST_CALM, len(self.ratios))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios if self.disturbed else self.calm_ratios)

    @property
    def ratio_upper95(self) -> float:
        """The one-sided 95% bound over processes; with fewer than `PROCESSES` of them nothing is bounded.

        Calm ones alone count where there are enough. Where they lack, the bound over all is widened by what was seen
        between calm and disturbed ones.
        """
        if len(self.ratios) < PROCESSES:
            return math.inf
        if len(self.calm_ratios) >= PROCESSES:
            return upper_bound_95(self.calm_ratios)
        if self.disturbed:
            return upper_bound_95(self.ratios)
        others = itertools.compress(self.ratios, (not calm for calm in self.calm))
        seen = abs(statistics.median(others) / statistics.median(self.calm_ratios) - 1)
        return max(upper_bound_95(self.ratios), self.ratio) * (1 + seen)

    def __add__(self, other: MeasuredLatency) -> MeasuredLatency:
        """Both, of one selection."""
        calm = tuple(flag for one in (self, other) for flag in one.calm or (True,) * len(one.ratios))
        return replace(
            self,
            ratios=self.ratios + other.ratios,
            calm=calm if self.calm or other.calm else (),
            waited=self.waited + other.waited,
            watched=self.watched or other.watched,
        )

    def columns(self) -> dict[str, Any]:
        processes = {"calm": self.calm, "waited": self.waited, "watched": self.watched}
        return {
            "ratio": round(self.ratio, 5),
            "ratios": json.dumps(self.ratios),
            "processes": json.dumps(processes) if self.calm else "",
        }

    @classmethod
    def from_columns(cls, selection: Selection, columns: dict[str, Any]) -> Self:
        known, ratios = json.loads(columns.get("processes") or "{}"), json.loads(columns["ratios"])
        calm, waited = known.get("calm", []), known.get("waited", [])
        if not ratios or not all(map(is_positive, ratios)):
            raise ValueError(f"ratios are {columns['ratios'][:60]}, expected numbers above 0")
        if len(calm) not in (0, len(ratios)) or not all(isinstance(flag, bool) for flag in calm):
            raise ValueError(f"calm is {str(calm)[:60]}, expected true or false for each ratio")
        return cls(
            selection=selection,
            ratios=tuple(ratios),
            calm=tuple(calm),
            waited=tuple(map(float, waited)),
            watched=str(known.get("watched", "")),
        )


class MeasuredLoss(NamedTuple):
    """A selection's distance to the teacher; infinite where its outputs are no numbers."""

    selection: Selection
    loss: float

    def columns(self) -> dict[str, Any]:
        return {"loss": self.loss}

    @classmethod
    def from_columns(cls, selection: Selection, columns: dict[str, Any]) -> Self:
        loss = float(columns["loss"])
        if not loss >= 0:
            raise ValueError(f"loss is {loss}, expected a number of at least 0")
        return cls(selection, loss)


@dataclass(frozen=True)
class _Columns:
    """The columns of a log that are text; the others are of its kind."""

    loop: str
    selection: str


def _operations(text: str) -> dict[str, str]:
    """A selection as a log holds it.

    Raises:
        ValueError: it is none.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(operation, str) for operation in found.values()):
        raise ValueError(f"selection is {text[:60]}, expected operations by layer")
    return found


Row = TypeVar("Row", bound=Measurement)


@dataclass
class ReplayLog(Generic[Row]):
    """Measurements of one kind, in the order they were taken, kept as CSV at `path`.

    A search that is repeated for the same student must decide as it did the first time. So `replay` shows it only the
    `rows` that it knew then.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)  # known so far
    search: str = ""
    _all: list[tuple[str, Row]] = field(default_factory=list)
    _own: list[Row] = field(default_factory=list)  # taken by this search when it ran before, and not known again yet
    row_type: ClassVar[type[Measurement]]

    @classmethod
    def read(cls, path: Path) -> Self:
        if not path.is_file():
            return cls(path)
        if lost := missing_rows(path):
            raise UserError(
                f"{path} lacks {lost}, and selections depend on each. Restore the file from a copy, or delete it: "
                "what it held is measured again."
            )
        entries: list[tuple[str, Any]] = []
        columns_of_all = read_records(path, _Columns)
        with explain_damage(path):
            for columns in columns_of_all:
                selection = Selection(_operations(columns["selection"]))
                entries.append((columns["loop"], cls.row_type.from_columns(selection, columns)))
        return cls(path, [row for _, row in entries], _all=entries)

    def holds(self, search: str) -> bool:
        """Whether a search, or a file that was read back, has entries."""
        return any(name == search for name, _ in self._all)

    def replay(self, search: str) -> Self:
        """The log as it was when this search began."""
        names = [name for name, _ in self._all]
        begin = names.index(search) if search in names else len(names)
        own = [row for name, row in self._all[begin:] if name == search]
        return type(self)(self.path, [row for _, row in self._all[:begin]], search, self._all, own)

    def _append(self, rows: Sequence[Row]) -> None:
        self._all += [(self.search, row) for row in rows]
        columns = (
            {"loop": name, **row.columns(), "selection": json.dumps(dict(row.selection))} for name, row in self._all
        )
        write_records(self.path, columns)


@dataclass
class LatencyLog(ReplayLog[MeasuredLatency]):
    """Measured latencies: a repeated search gets its own again, batch by batch, instead of new ones."""

    row_type = MeasuredLatency

    def recall(self, selections: Sequence[Selection]) -> bool:
        """Know again what this search measured of these selections when it ran before; False where it did not."""
        count = len(selections)
        if [row.selection for row in self._own[:count]] != list(selections):
            self._own = []
            return False
        self.rows += self._own[:count]
        self._own = self._own[count:]
        return True

    def add(self, selections: Sequence[Selection], comparisons: Sequence[Comparison]) -> None:
        """Append measurements and write the log."""
        new = [
            MeasuredLatency.of(selection, comparison)
            for selection, comparison in zip(selections, comparisons, strict=True)
        ]
        self.rows += new
        self._append(new)

    def get(self, selection: Selection) -> MeasuredLatency | None:
        """Everything measured of a selection, pooled over the times that it was measured."""
        return pooled(self.rows).get(selection)


@dataclass
class LossLog(ReplayLog[MeasuredLoss]):
    """Measured losses: exact for a run's weights, so a search takes them from any other and writes only new ones."""

    row_type = MeasuredLoss

    def get(self, selection: Selection) -> float | None:
        """The loss of a selection, where this search knows it."""
        return next((loss for known, loss in self.rows if known == selection), None)

    def get_any(self, selection: Selection) -> float | None:
        """The loss of a selection, whichever search measured it."""
        return next((row.loss for _, row in self._all if row.selection == selection), None)

    def add(self, selections: Sequence[Selection], losses: Sequence[float]) -> None:
        """Take in measured losses and write those that are new."""
        finite = [max(0.0, round(loss, 6)) if math.isfinite(loss) else math.inf for loss in losses]  # also nan
        new = [MeasuredLoss(selection, loss) for selection, loss in zip(selections, finite, strict=True)]
        self.rows += new
        if fresh := [row for row in new if self.get_any(row.selection) is None]:
            self._append(fresh)


@dataclass(frozen=True)
class MeasurementLog:
    """All that was measured of the students of a run."""

    latencies: LatencyLog
    losses: LossLog

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(LatencyLog.read(folder / "measured_students.csv"), LossLog.read(folder / "losses.csv"))

    def replay(self, search: str) -> MeasurementLog:
        """Both logs as they were when this search began."""
        return MeasurementLog(self.latencies.replay(search), self.losses.replay(search))


def pooled(rows: Iterable[MeasuredLatency]) -> dict[Selection, MeasuredLatency]:
    """One entry a selection, in the order of first measurement."""
    return {selection: functools.reduce(operator.add, same) for selection, same in _by_selection(rows).items()}


def repeatability(rows: Iterable[MeasuredLatency]) -> list[float]:
    """The relative differences between each measurement of a selection and the one before it."""
    return [
        abs(later.ratio / before.ratio - 1)
        for same in _by_selection(rows).values()
        for before, later in itertools.pairwise(same)
    ]


def _by_selection(rows: Iterable[MeasuredLatency]) -> dict[Selection, list[MeasuredLatency]]:
    found: dict[Selection, list[MeasuredLatency]] = {}
    for row in rows:
        found.setdefault(row.selection, []).append(row)
    return found
