"""Tables that are there already: in a folder of the user's, in `./hardware_tables`, in the user's data folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from profilers import table_file
from profilers.calibration import rescale
from profilers.errors import InvalidTable, TableMismatch
from profilers.table_columns import Fields
from profilers.table_file import Header
from profilers.user_folder import home

_MILLISECONDS = ("latency_ms", "p90_ms", "cold_ms")
SHIPPED = Path(__file__).resolve().parent.parent / "hardware_tables"


def search_path(first: Path | None = None) -> list[Path]:
    """Folders in which tables are looked for, the first ones first."""
    folders = [*([first] if first else []), Path("hardware_tables"), home() / "tables", SHIPPED]
    return list(dict.fromkeys(folder.absolute() for folder in folders if folder.is_dir()))


def known_rows(folders: Sequence[Path], header: Header, keys: Collection[str]) -> list[Fields]:
    """Rows of these keys from any table of the same device, runtime, versions and settings.

    Milliseconds are brought to the calibration reference of `header`. Rows with an error, and tables that cannot be
    read or are of something else, are passed over.
    """
    rows_by_key: dict[str, Fields] = {}
    missing = set(keys)
    for path in (path for folder in folders for path in sorted(folder.glob("**/*.csv"))):
        if missing <= rows_by_key.keys():
            break
        try:
            theirs, rows = table_file.read(path)
            header.require_same(theirs, str(path), reference=False)
        except (InvalidTable, TableMismatch):
            continue
        factor = rescale(theirs.reference_s, header.reference_s)
        for row in rows:
            if row["key"] in missing and not row["error"]:
                rows_by_key.setdefault(row["key"], scaled(row, factor))
    return list(rows_by_key.values())


def scaled(row: Fields, factor: float) -> Fields:
    """A row with its milliseconds times a factor."""
    if row["error"] or factor == 1:
        return row
    return {**row, **{name: f"{float(row[name]) * factor:.6g}" for name in _MILLISECONDS}}
