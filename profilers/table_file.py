"""The file of a latency table: CSV under a commented header, checked on reading, appended to while measuring.

    # lana latency table, schema 1
    # runtime: "onnxruntime-cpu"
    # …                                   every line a key and a JSON value
    key,name,operation,…,check            see `COLUMNS`
    3f2a…,conv_bottle_k3_w0.5 (1 64 16 16),…,91c2f0ab
    # end: 1 rows, check 0c9d2e51b7a4f688

Each row's `check` covers the row and the header, so a changed figure, or a row of another table, shows; the last
line covers all rows, so a missing one shows. It is rewritten with each append, in one write, under a lock: whoever is
killed leaves a whole table, and two writers at once leave one with the rows of both.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profilers.errors import InvalidTable, ProfilerError, TableMismatch
from profilers.locks import REPLACES_LOCKED, lock, open_locked
from profilers.runtime import RuntimeSettings
from profilers.table_columns import COLUMNS, Fields, check_reference, row_fault

SCHEMA = 1
_FIRST = f"# lana latency table, schema {SCHEMA}"
# A session of ONNX Runtime repeats the folding of an exported file: folded and unfolded files of one exporter measure
# the same (benchmarks/exported_graphs.py latencies: at most 2% apart), so that their rows may share a table.
_REPEATS_FOLDING = ("onnxruntime-cpu",)
_FOLDED = " folded"
_END = re.compile(r"# end: (\d+) rows, check ([0-9a-f]{16})\n")


@dataclass(frozen=True, kw_only=True)
class Header:
    """The entries that all rows of a table share.

    Attributes:
        reference_s: seconds of the calibration kernels that the milliseconds refer to.
        protocol, environment: of the process that began the table, for the record.
    """

    runtime: str
    versions: Mapping[str, str]
    settings: RuntimeSettings
    device: str
    reference_s: Mapping[str, float]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_reference(self.reference_s)

    def to_json(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime,
            "versions": dict(self.versions),
            "settings": self.settings.to_json(),
            "device": self.device,
            "reference_s": dict(self.reference_s),
            "protocol": dict(self.protocol),
            "environment": dict(self.environment),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Header:
        return cls(**{**fields, "settings": RuntimeSettings.from_json(fields["settings"])})

    @functools.cached_property
    def seal(self) -> str:
        """The part of the header that the checksums of the rows cover."""
        return json.dumps(self.to_json(), sort_keys=True)

    def require_same(self, other: Header, whose: str, *, reference: bool = True) -> None:
        """Raise unless rows of both belong into one table.

        Raises:
            TableMismatch: the message names every difference.
        """
        names = ["device", "runtime", "versions", "settings", *(["reference_s"] if reference else [])]
        ours, theirs = self.to_json(), other.to_json()
        differences = [
            f"{name}: {json.dumps(theirs[name])} there, {json.dumps(ours[name])} here"
            for name in names
            if ours[name] != theirs[name] and not (name == "versions" and self._equally_fast(other))
        ]
        if differences:
            raise TableMismatch(
                f"{whose} holds rows that were measured otherwise and cannot be mixed with these. "
                + "; ".join(differences)
                + ". Write another table."
            )

    def _equally_fast(self, other: Header) -> bool:
        """True if the versions differ in what the runtime itself makes equal."""
        return self.runtime in _REPEATS_FOLDING and _unfolded(self.versions) == _unfolded(other.versions)


def _unfolded(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version.removesuffix(_FOLDED) for name, version in versions.items()}


def seal_row(header: Header, fields: Mapping[str, str]) -> Fields:
    """A row with its check."""
    return {**fields, "check": _check(header.seal, *(fields[name] for name in COLUMNS if name != "check"))[:8]}


def _check(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def render(header: Header, rows: Sequence[Fields]) -> str:
    """The whole file."""
    lines = [_FIRST, *(f"# {name}: {json.dumps(value)}" for name, value in header.to_json().items())]
    return "\n".join(lines) + "\n" + _csv([dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]) + _end(header, rows)


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[row[name] for name in COLUMNS] for row in rows])
    return text.getvalue()


def _end(header: Header, rows: Sequence[Fields]) -> str:
    return f"# end: {len(rows)} rows, check {_check(header.seal, *sorted(row['check'] for row in rows))}\n"


def parse(text: str, whose: str, *, cut_short: bool = False) -> tuple[Header, list[Fields]]:
    """The header and the rows; with `cut_short`, the whole rows of a table that lost its end.

    Raises:
        InvalidTable: the message names the fault.
    """
    lines = text.splitlines(keepends=True)
    if not lines or not lines[0].startswith("# lana latency table, schema "):
        raise InvalidTable(f"{whose} is no latency table: its first line is not {_FIRST!r}.")
    if lines[0].rstrip("\n") != _FIRST:
        raise InvalidTable(
            f"{whose} has another schema than this version reads: {lines[0].strip()!r}, expected {_FIRST!r}. "
            "Measure it again, or install the version that wrote it."
        )
    header, count = _parse_header(lines, whose)
    end = _END.fullmatch(lines[-1])
    body = lines[count : -1 if end else None]
    if not end and not cut_short:
        raise InvalidTable(
            f"{whose} is cut short: its last line is not '# end: …'. "
            "`lana profile` into the same file keeps the rows that are whole and measures the others."
        )
    try:
        lines_of_values = list(csv.reader(io.StringIO("".join(body), newline="")))
    except csv.Error as error:
        raise InvalidTable(f"{whose} cannot be read as CSV: {error}.") from error
    if not lines_of_values or lines_of_values[0] != list(COLUMNS):
        raise InvalidTable(f"{whose} has the columns {lines_of_values[:1]}, expected {list(COLUMNS)}.")
    rows = []
    for position, values in enumerate(lines_of_values[1:], start=count + 2):
        row = dict(zip(COLUMNS, values, strict=False))
        if len(values) != len(COLUMNS) or seal_row(header, row) != row:
            if cut_short and not end:
                continue
            raise InvalidTable(
                f"Line {position} of {whose} ({values[1] if len(values) > 1 else values}) was changed after it was "
                "measured, or belongs to another table: its check does not fit it and the header."
            )
        if fault := row_fault(row):
            raise InvalidTable(
                f"Line {position} of {whose} ({row['name'][:80]}) is invalid: {fault}. Measure it again."
            )
        rows.append(row)
    if end and (int(end[1]) != len(rows) or lines[-1] != _end(header, rows)):
        raise InvalidTable(
            f"{whose} has {len(rows)} rows, not the {end[1]} that were measured: rows were removed or added."
        )
    return header, rows


def _parse_header(lines: Sequence[str], whose: str) -> tuple[Header, int]:
    """The header, and how many lines it takes."""
    count = 1
    while count < len(lines) and lines[count].startswith("# ") and not _END.match(lines[count]):
        count += 1
    try:
        pairs = (line[2:].rstrip("\n").partition(": ") for line in lines[1:count])
        return Header.from_json({name: json.loads(value) for name, _, value in pairs}), count
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ProfilerError) as error:
        raise InvalidTable(f"The header of {whose} cannot be read: {str(error)[:300]!r}. Measure it again.") from error


def read(path: Path, *, cut_short: bool = False) -> tuple[Header, list[Fields]]:
    """A whole, unchanged table; with `cut_short` also one that lost its end.

    Raises:
        InvalidTable: it is not there, or not that.
    """
    try:
        with path.open("rb") as file, lock(file, exclusive=False):
            content = file.read()
    except OSError as error:
        raise InvalidTable(f"{path} cannot be read: {error.strerror}.") from error
    return parse(_decode(content, path, cut_short=cut_short), str(path), cut_short=cut_short)


def _decode(content: bytes, path: Path, *, cut_short: bool = False) -> str:
    content = _plain(content)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if cut_short and error.reason == "unexpected end of data":
            return content[: error.start].decode()
        raise InvalidTable(f"{path} is no latency table: it is not text.") from error


def _plain(content: bytes) -> bytes:
    """Without what an editor, a spreadsheet or git may have added: a byte order mark, other line ends."""
    return content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")


def write(path: Path, header: Header, rows: Sequence[Fields]) -> None:
    """Write a whole table to a temporary file and rename it into place; the rows get their checksums."""
    sealed = [seal_row(header, row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(render(header, sealed).encode())
        os.chmod(temporary, 0o644)
        # Not while another process appends. Where there is no flock, an open file cannot be replaced.
        with open_locked(path) if REPLACES_LOCKED else contextlib.nullcontext():
            os.replace(temporary, path)
    except BaseException:  # an interruption too leaves no half of a file
        os.unlink(temporary)
        raise


def append(path: Path, header: Header, rows: Sequence[Mapping[str, str]]) -> list[Fields]:
    """Add rows whose keys are absent, or present with an error only; return all rows.

    The file is made if there is none.

    Rows that a truncated table lost are dropped first.

    Raises:
        TableMismatch: the table was measured otherwise.
        InvalidTable: the file is no table, or was changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_locked(path) as file:
        content = file.read()
        if _nothing_yet(content):
            content = b""
        if content:
            stored, kept = parse(_decode(content, path, cut_short=True), str(path), cut_short=True)
            header.require_same(stored, str(path))
        else:
            stored, kept = header, []
        keys = {row["key"] for row in kept if not row["error"]}
        new = [seal_row(stored, row) for row in rows if row["key"] not in keys]
        replaced = {row["key"] for row in new}
        before, kept = len(kept), [row for row in kept if row["key"] not in replaced]
        if not content:
            start, text = 0, render(stored, new)
        else:
            whole = render(stored, kept).encode()
            start = len(whole) - len(_end(stored, kept).encode())
            if len(kept) < before or content[:start] != whole[:start]:  # e.g. other line ends: written anew
                start, text = 0, render(stored, [*kept, *new])
            else:
                text = (_csv(new) if new else "") + _end(stored, [*kept, *new])
        file.seek(start)
        file.write(text.encode())
        file.truncate()
        file.flush()
        return [*kept, *new]


def read_begun(path: Path) -> Header | None:
    """The header of a table that may have lost its end; None where nothing was written yet.

    Raises:
        InvalidTable: the file is no table, or was changed.
    """
    if not path.exists() or _nothing_yet(path.read_bytes()):
        return None
    return read(path, cut_short=True)[0]


def _nothing_yet(content: bytes) -> bool:
    """True if the process that began the table was killed before it wrote a row; nothing is lost then."""
    first, columns = f"{_FIRST}\n".encode(), ",".join(COLUMNS).encode()
    content = _plain(content)
    *header, last = content.split(b"\n")
    return (
        first.startswith(content[: len(first)])
        and all(line.startswith(b"# ") for line in header)
        and (last.startswith(b"#") or columns.startswith(last))
    )
