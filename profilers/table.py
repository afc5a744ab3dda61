"""`LatencyTable`: measured milliseconds of computations on one device, runtime and setting."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profilers import table_file
from profilers.calibration import rescale
from profilers.errors import MissingRow, TableMismatch
from profilers.library import scaled
from profilers.table_columns import COLUMNS, LABELS, MEASURED, STATIC, Fields
from profilers.table_file import Header

if TYPE_CHECKING:
    import pandas as pd

CONFLICT = 0.15  # relative; two good rows of one computation further apart were not measured under the same conditions


@dataclass(frozen=True, kw_only=True)
class Row:
    """One computation's figures; nan where there is none. See `profilers.table_columns.COLUMNS` for what each is."""

    key: str
    name: str
    labels: Mapping[str, str]
    latency_ms: float
    p90_ms: float
    cold_ms: float
    interval: float
    rounds: float
    raw_ms: float
    noisy: bool
    columns: Mapping[str, float]
    error: str
    measured: str
    load: float

    @classmethod
    def from_fields(cls, fields: Fields) -> Row:
        more: dict[str, Any] = json.loads(fields["more"]) if fields["more"] else {}
        columns = {name: float(fields[name]) for name in STATIC if fields[name]}
        labels = {name: fields[name] for name in LABELS if fields[name]}
        return cls(
            key=fields["key"],
            name=fields["name"],
            labels={**labels, **{name: value for name, value in more.items() if isinstance(value, str)}},
            **{name: _float(fields[name]) for name in MEASURED},
            noisy=fields["noisy"] == "1",
            columns={**columns, **{name: value for name, value in more.items() if not isinstance(value, str)}},
            error=fields["error"],
            measured=fields["measured"],
            load=_float(fields["load"]),
        )


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """The rows of a table file, by key. It is not changed: `merge` gives a new one.

    Attributes:
        header: device, runtime, versions, settings, calibration reference.
        fields: key → the row as the file holds it.
        source: where it was read from, for messages.
    """

    header: Header
    fields: Mapping[str, Fields] = field(default_factory=dict)
    source: str = "the table"

    @classmethod
    def read(cls, path: Path | str) -> LatencyTable:
        """A table from its file.

        Raises:
            InvalidTable: it was changed, is cut short, or is no latency table.
        """
        header, rows = table_file.read(Path(path))
        return cls(header=header, fields={row["key"]: row for row in rows}, source=str(path))

    def write(self, path: Path | str) -> None:
        """Write the table to a file, in one go."""
        table_file.write(Path(path), self.header, list(self.fields.values()))

    def __contains__(self, key: object) -> bool:
        return key in self.fields

    def __len__(self) -> int:
        return len(self.fields)

    def lookup(self, key: str, *, name: str = "", labels: Mapping[str, str] | None = None) -> Row:
        """The row of a computation, which may hold an error instead of figures.

        `name` and `labels` are those of the computation looked for: with them a missing row names the nearest.

        Raises:
            MissingRow: there is none.
        """
        if key in self.fields:
            return Row.from_fields(self.fields[key])
        description = " ".join(filter(None, [name, *(f"{k}={v}" for k, v in (labels or {}).items())]))
        near = self._nearest(name, labels or {})
        raise MissingRow(
            f"{self.source} ({len(self)} rows) has no row {key}{f' for {description}' if description else ''}. "
            + (f"Nearest: {'; '.join(near)}. " if near else "")
            + "Measure it with `lana profile` into the same table."
        )

    def _nearest(self, name: str, labels: Mapping[str, str]) -> list[str]:
        """Names of rows: those that share most labels, then those of the most similar name."""

        def likeness(row: Fields) -> tuple[int, float]:
            same = sum(bool(value) and row.get(label) == value for label, value in labels.items())
            return same, difflib.SequenceMatcher(None, row["name"], name).ratio()

        ranked = sorted(self.fields.values(), key=likeness, reverse=True)
        return [row["name"] for row in ranked[:3] if likeness(row) > (0, 0.5)]

    @property
    def rows(self) -> pd.DataFrame:
        """All rows as a data frame indexed by key; numbers are numbers, missing ones nan."""
        import pandas as pd

        names = [name for name in COLUMNS if name != "check"]
        frame = pd.DataFrame([[row[name] for name in names] for row in self.fields.values()], columns=names)
        for name in (*MEASURED, *STATIC, "load"):
            frame[name] = pd.to_numeric(frame[name])
        frame["noisy"] = frame["noisy"] == "1"
        return frame.set_index("key")

    def merge(self, other: LatencyTable, *, prefer: str = "narrower") -> LatencyTable:
        """The rows of both. Milliseconds of another calibration reference are brought to this table's.

        Where both have a row, a figure wins over an error; of two figures the one with the narrower interval
        ("narrower"), this table's ("ours") or the other's ("theirs").

        Raises:
            TableMismatch: they are of different devices, runtimes, versions or settings; or, with "narrower", a row
                differs by more than 15%, and by more than both intervals.
        """
        if prefer not in ("narrower", "ours", "theirs"):
            raise TableMismatch(f"prefer={prefer!r}: expected narrower, ours or theirs.")
        self.header.require_same(other.header, other.source, reference=False)
        factor = rescale(other.header.reference_s, self.header.reference_s)
        merged = dict(self.fields)
        for key, row in other.fields.items():
            theirs = scaled(row, factor)
            merged[key] = self._settle(merged[key], theirs, prefer, other.source) if key in merged else theirs
        return LatencyTable(header=self.header, fields=merged, source=self.source)

    def _settle(self, ours: Fields, theirs: Fields, prefer: str, source: str) -> Fields:
        if ours["error"] or theirs["error"]:
            return ours if theirs["error"] else theirs
        if prefer != "narrower":
            return ours if prefer == "ours" else theirs
        a, b = float(ours["latency_ms"]), float(theirs["latency_ms"])
        sure = [float(row["interval"]) for row in (ours, theirs)]
        if abs(a - b) > max(CONFLICT, sum(sure)) * min(a, b):
            raise TableMismatch(
                f"{ours['name']} takes {a:.4g} ms in {self.source} and {b:.4g} ms in {source}: too far apart to be the "
                "same device under the same conditions. Choose the one to keep: ours or theirs (--prefer, or prefer=)."
            )
        return ours if sure[0] <= sure[1] else theirs

    def diff(self, other: LatencyTable) -> pd.DataFrame:
        """Rows that both have, with milliseconds of each and the other's over this one's.

        The other's are at this table's calibration reference where both are of one device and setting.
        """
        names = ["latency_ms", "interval"]
        both = self.rows.join(other.rows[names], how="inner", rsuffix="_other")
        found = both[["name", "latency_ms", "latency_ms_other", "interval", "interval_other"]].copy()
        try:
            self.header.require_same(other.header, other.source, reference=False)
            found["latency_ms_other"] *= rescale(other.header.reference_s, self.header.reference_s)
        except TableMismatch:
            pass  # of different devices: the figures of each, without conversion
        found["ratio"] = found["latency_ms_other"] / found["latency_ms"]
        return found


def _float(text: str) -> float:
    return float(text) if text else math.nan
