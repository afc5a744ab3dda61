"""The pool with measured latencies: what is offered, what is worth training, and the int8 variants that pay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lana.common.progress import Progress, counted
from lana.config.options import ProfilingOptions
from lana.models.teacher import Teacher
from lana.networks.layers import Layer, LayerScan
from lana.operations.families import Operation
from lana.pool.ascending import measure_ascending
from lana.pool.builder import Builder
from lana.pool.candidates import Candidate, planned_candidates, with_latencies
from lana.pool.int8_candidates import with_int8
from lana.pool.shortlist import shortlist
from lana.quantization.scheme import scheme_for
from lana.runs.baseline import runtime_format
from profilers import Computation, LatencyTable
from profilers import Progress as MeasuringProgress
from profilers import profile as measure_table


class Profiling:
    """Builds and measures the pool of a teacher, into the file `table`; `libraries` hold tables to copy rows from."""

    def __init__(
        self,
        teacher: Teacher,
        scan: LayerScan,
        options: ProfilingOptions,
        *,
        table: Path,
        folder: Path,
        libraries: Sequence[Path] = (),
    ) -> None:
        self.options, self.table, self.libraries = options, table, libraries
        self.scheme = scheme_for(options.runtime, options.precisions)
        format = runtime_format(options.runtime, options.runtime_settings)
        self.builder = Builder(teacher, batch=options.batch, folder=folder, format=format, scheme=self.scheme)
        self.planned = planned_candidates(teacher, scan, options.pool)

    def candidates(self) -> tuple[list[Candidate], LatencyTable]:
        """All candidates, those worth it kept, and the whole table."""
        with Progress(f"Building and measuring {len(self.planned)} operations", len(self.planned)) as progress:
            candidates, table = self._plain(progress)
        kept = shortlist(with_latencies(candidates, table))
        if self.scheme is None:
            return kept, table
        with Progress(f"Measuring {counted(sum(one.kept for one in kept), 'int8 operation')}") as progress:
            return with_int8(kept, self.builder, self._measured, progress.update), LatencyTable.read(self.table)

    def _measured(
        self, computations: Sequence[Computation], on_progress: Callable[[MeasuringProgress], None] | None = None
    ) -> LatencyTable:
        return measure_table(
            computations,
            runtime=self.options.runtime,
            settings=self.options.runtime_settings,
            table=self.table,
            libraries=self.libraries,
            progress=on_progress,
        )

    def _plain(self, progress: Progress) -> tuple[list[Candidate], LatencyTable]:
        built = measured = 0

        def build(layer: Layer, operation: Operation) -> Candidate:
            nonlocal built
            built += 1
            progress.update((built + measured) / 2, operation.name)
            return self.builder.candidate(layer, operation)

        def measure(wave: Sequence[Candidate]) -> LatencyTable:
            nonlocal measured
            computations = [self.builder.computations[key] for key in dict.fromkeys(one.key for one in wave)]
            latencies = self._measured(
                computations, lambda state: progress.update((built + measured + state.done) / 2, state.name)
            )
            measured = built
            return latencies

        return measure_ascending(self.planned, build, measure)
