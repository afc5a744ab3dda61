"""The latency table: measured milliseconds by structural key, as a CSV that people read and git compares.

The file begins with one comment line of JSON, what all rows have in common: schema, runtime, settings, versions,
device. Every row ends with a checksum of itself, so rows can be appended while measuring, a kill costs the row in
flight, and tampering shows.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from .errors import InvalidTable, MissingRow

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured computation; `error` says why there is no latency.

    `half_width` is that of the 95% interval of the median as a share of it, `rounds` how many samples it rests on.
    """

    key: str
    operation: str
    family: str
    layer: str
    input_shape: str
    output_shape: str
    latency_ms: float
    p90_ms: float
    half_width: float
    rounds: int
    noisy: bool
    parameters: float
    macs: float
    operators: float
    error: str

    def checksum(self) -> str:
        return hashlib.sha256("\x1f".join(_cells(self)).encode()).hexdigest()[:8]


_COLUMNS = [spec.name for spec in fields(Row)]


def _cells(row: Row) -> list[str]:
    return [_cell(getattr(row, name)) for name in _COLUMNS]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return str(value)


def _row(cells: Mapping[str, str]) -> Row:
    kinds = {spec.name: spec.type for spec in fields(Row)}
    values: dict[str, Any] = {}
    for name, text in cells.items():
        match kinds[name]:
            case "float":
                values[name] = float(text) if text else float("nan")
            case "int":
                values[name] = int(text)
            case "bool":
                values[name] = text == "yes"
            case _:
                values[name] = text
    return Row(**values)


class LatencyTable:
    """Rows by key, measured on one device with one runtime at one setting.

    `about` holds what the rows have in common.
    """

    def __init__(self, about: Mapping[str, Any], rows: Mapping[str, Row] | None = None) -> None:
        self.about = dict(about)
        self._rows = dict(rows or {})

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a data frame."""
        import pandas as pd

        return pd.DataFrame([vars(row) for row in self], columns=_COLUMNS)

    def lookup(self, key: str) -> Row:
        """The row of a computation.

        Raises:
            MissingRow: it was not measured; the nearest keys are named. It is never taken for zero.
        """
        if key not in self._rows:
            close = difflib.get_close_matches(key, self._rows, n=3, cutoff=0.0)
            named = "; ".join(f"{k}: {self._rows[k].operation} ({self._rows[k].input_shape})" for k in close)
            raise MissingRow(
                f"The table of {self.about.get('runtime')} has no row {key} among {len(self)}. Nearest: {named or 'none'}. "
                "Measure it with: lana profile MODEL"
            )
        return self._rows[key]

    @classmethod
    def read(cls, path: Path | str) -> LatencyTable:
        """Read and check a table; a last line that was cut off by a kill is left out.

        Raises:
            InvalidTable: not a table, of another schema, or with a row that does not fit its checksum.
        """
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidTable(f"The table {path} cannot be read: {error}.") from error
        head, _, body = text.partition("\n")
        try:
            about = json.loads(head.removeprefix("# "))
            schema = about["schema"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidTable(f"{path} is not a latency table: its first line does not describe one.") from error
        if schema != SCHEMA:
            raise InvalidTable(f"{path} has schema {schema}; this version reads {SCHEMA}. Measure it again.")
        whole = body[: body.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(whole))
        if list(reader.fieldnames or []) != [*_COLUMNS, "checksum"]:
            raise InvalidTable(f"{path} has the columns {reader.fieldnames}; expected {[*_COLUMNS, 'checksum']}.")
        rows = {}
        for number, cells in enumerate(reader, start=3):
            given = cells.pop("checksum")
            try:
                row = _row(cells)
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidTable(f"{path}, line {number}: not a row ({error}).") from error
            if row.checksum() != given:
                raise InvalidTable(f"{path}, line {number} ({row.operation}) does not fit its checksum: it was changed.")
            rows[row.key] = row
        return cls(about, rows)

    @classmethod
    def open(cls, path: Path, about: Mapping[str, Any]) -> LatencyTable:
        """Read the table at `path`, or begin it.

        Raises:
            InvalidTable: it is there with other settings, versions or device; what differs is said.
        """
        if path.is_file() and path.stat().st_size:
            table = cls.read(path)
            table.require(about, path)
            return table
        path.parent.mkdir(parents=True, exist_ok=True)
        table = cls({"schema": SCHEMA, **about})
        path.write_text(f"# {json.dumps(table.about)}\n{','.join([*_COLUMNS, 'checksum'])}\n")
        return table

    def require(self, about: Mapping[str, Any], path: Path) -> None:
        """Refuse to mix measurements that do not compare."""
        names = ("runtime", "settings", "versions", "device")
        other = [f"{n}: {self.about.get(n)} there, {about[n]} now" for n in names if self.about.get(n) != about[n]]
        if other:
            raise InvalidTable(f"The table {path} was measured otherwise ({'; '.join(other)}). Give another file.")

    def append(self, path: Path, row: Row) -> None:
        """Add a row to the table and to its file, safely beside other writers."""
        self._rows[row.key] = row
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([*_cells(row), row.checksum()])
        with FileLock(f"{path}.lock"), path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)  # what a kill cut off
            file.seek(0, io.SEEK_END)
            file.write(line.getvalue().encode())
