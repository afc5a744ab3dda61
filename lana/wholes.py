"""Measured whole networks: the log that the latency correction is fitted on and that a selection is accepted by."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from profilers.comparison import Comparison, upper_bound_95

from lana.run import write

PROCESSES = 5


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A selection's latency as its ratio to the teacher measured beside it, one ratio a fresh process."""

    selection: Mapping[str, str]
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
    """All measurements of a run, in the order they were taken, kept as CSV at `path`."""

    path: Path
    rows: list[Measured] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Log:
        import pandas as pd

        if not path.is_file():
            return cls(path)
        frame = pd.read_csv(path)
        rows = [
            Measured(selection=json.loads(selection), ratios=tuple(json.loads(ratios)))
            for selection, ratios in zip(frame["selection"], frame["ratios"], strict=True)
        ]
        return cls(path, rows)

    def add(self, selections: Sequence[Mapping[str, str]], comparisons: Sequence[Comparison]) -> None:
        """Append measurements and write the log."""
        import pandas as pd

        for selection, comparison in zip(selections, comparisons, strict=True):
            self.rows.append(Measured(selection=replaced(selection), ratios=comparison.ratios))
        frame = pd.DataFrame(
            {
                "ratio": [round(row.ratio, 5) for row in self.rows],
                "ratios": [json.dumps([round(ratio, 5) for ratio in row.ratios]) for row in self.rows],
                "selection": [json.dumps(dict(row.selection)) for row in self.rows],
            }
        )
        write(self.path, lambda beside: frame.to_csv(beside, index=False))

    def of(self, selection: Mapping[str, str]) -> Measured | None:
        """Everything measured of a selection, pooled over the times that it was measured."""
        wanted = replaced(selection)
        ratios = [ratio for row in self.rows if row.selection == wanted for ratio in row.ratios]
        return Measured(selection=wanted, ratios=tuple(ratios)) if ratios else None

    def pooled(self) -> list[Measured]:
        """One entry a selection, in the order of first measurement."""
        unique = {json.dumps(row.selection, sort_keys=True): row.selection for row in self.rows}
        return [measured for selection in unique.values() if (measured := self.of(selection)) is not None]


def replaced(selection: Mapping[str, str]) -> dict[str, str]:
    """A selection without the layers that keep the teacher's own."""
    return {layer: operation for layer, operation in sorted(selection.items()) if operation != "teacher"}
