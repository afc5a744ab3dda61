"""How far is a predicted latency from the measured one? On students held out of every fit.

    python benchmarks/prediction.py timm:efficientnet_b0 --runtime onnxruntime-cpu --out FOLDER

The correction is fitted as in a run: on students that the program chose over the range of budgets. Half of the held-out
students are drawn at random, half are chosen by the program for other losses. They are spread over 0.25x to 0.9x.
Weights and losses are random: neither affects a student's latency. Each held-out student is measured twice, all of them
once before any again. The difference of the two is reported as repeatability. About half of it is the noise of their
mean, which predictions are compared with: the limit of any prediction. The plain sum of isolated latencies, scaled to
be right for the teacher, is the baseline. After an interruption, the same command resumes. Goals: mean absolute error
at most 3%, at least 95% within ±10%.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from lana.common.files import write_json
from lana.config.recipe import Recipe
from lana.exporters.computation import to_computation
from lana.models.selection import Pair, Selection
from lana.models.student import assemble, build_operation
from lana.models.teacher import Teacher, teacher_of
from lana.networks.layers import find_layers
from lana.pool.builder import make_candidates
from lana.pool.candidates import Candidate, read_candidates, unique_layers, with_latencies, write_candidates
from lana.pool.shortlist import shortlist
from lana.selection.latency_model import COLUMNS, held_out_error
from lana.selection.measurement_log import LatencyLog, LossLog, MeasurementLog
from lana.selection.program import LOWEST_BUDGET_RATIO, SelectionModel
from lana.selection.search import BudgetSearch
from profilers import Comparison, Computation, compare, create_runtime, profile
from profilers.library import search_path

RANGE = (0.25, 0.9)  # of the teacher's latency
TOGETHER = 10  # students measured in one process
PROCESSES = 3  # fresh ones that a held-out student is measured in, each of the two times
DRAWN = 4000  # random selections, of which those nearest to the wanted latencies are taken


class Bench:
    """A network on a runtime: its pool with latencies, and the way to measure students of it."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out, self.networks = recipe, out, out / "networks"
        self.settings = recipe.profiling.runtime_settings
        self.format = create_runtime(recipe.profiling.runtime, self.settings).format
        self.teacher: Teacher = teacher_of(recipe.teacher, pretrained=False)
        self.networks.mkdir(parents=True, exist_ok=True)
        self.candidates = self._candidates()
        self.layers = unique_layers(self.candidates)
        self.operations = {
            candidate.pair: build_operation(candidate.layer, self.teacher.module, candidate.operation)
            for candidate in self.candidates
            if candidate.operation != "teacher"
        }
        self.search = BudgetSearch(
            model=SelectionModel(
                layers=[layer.name for layer in self.layers],
                candidates=self.candidates,
                scores=synthetic_losses(self, 0),
                teacher_ms=self._teacher_ms(),
            ),
            measurer=self,
            log=MeasurementLog(LatencyLog.read(out / "fitted.csv"), LossLog(out / "losses.csv")),
            calibration_students=recipe.selecting.calibrate,
        )

    def _candidates(self) -> list[Candidate]:
        path = self.out / "candidates.csv"
        if not path.is_file():
            scan = find_layers(self.teacher.module, (self.teacher.example(),))
            folder = self.out / "computations"
            batch, pool = self.recipe.profiling.batch, self.recipe.profiling.pool
            candidates, computations = make_candidates(
                self.teacher, scan, pool, batch=batch, folder=folder, format=self.format
            )
            table = profile(
                computations,
                runtime=self.recipe.profiling.runtime,
                settings=self.settings,
                table=self.out / "table.csv",
                libraries=search_path(),
            )
            write_candidates(path, shortlist(with_latencies(candidates, table)))
            shutil.rmtree(folder)
        return [candidate for candidate in read_candidates(path) if candidate.kept]

    def _teacher_ms(self) -> float:
        path = self.out / "teacher.json"
        if not path.is_file():
            comparison = self._compared([self.file(Selection())], processes=5)[0]
            write_json(path, {"teacher_ms": float(np.median(comparison.reference_ms))})
        return float(json.loads(path.read_text())["teacher_ms"])

    def file(self, selection: Selection) -> Computation:
        """The student as a file, written once."""
        text = json.dumps(dict(selection))
        stem = hashlib.sha256(text.encode()).hexdigest()[:16] if selection else "teacher"
        path = self.networks / f"{stem}.json"
        if not path.is_file():
            module = assemble(self.teacher.module, self.layers, selection, self.operations)
            example = self.teacher.example(self.recipe.profiling.batch)
            to_computation(module, example, self.networks, name=stem, format=self.format, stem=stem).save(path)
        return Computation.load(path)

    def losses(self, selections: Sequence[Selection]) -> list[float]:
        raise NotImplementedError("Weights are random: no loss is asked for.")

    def latencies(self, selections: Sequence[Selection], processes: int) -> list[Comparison]:
        """Measure students, paired with the teacher, some at a time; their files stay for the second time."""
        comparisons: list[Comparison] = []
        for start in range(0, len(selections), TOGETHER):
            comparisons += self._compared([self.file(one) for one in selections[start : start + TOGETHER]], processes)
            print(f"  {len(comparisons)} of {len(selections)} students measured", flush=True)
        return comparisons

    def _compared(self, files: Sequence[Computation], processes: int) -> list[Comparison]:
        return compare(
            self.file(Selection()),
            files,
            runtime=self.recipe.profiling.runtime,
            settings=self.settings,
            processes=processes,
        )


def synthetic_losses(bench: Bench, seed: int) -> dict[Pair, float]:
    """A plausible loss of an operation: larger where it computes less than the teacher's, times a random factor."""
    rng = np.random.default_rng(seed)
    own = {candidate.layer.name: candidate.macs for candidate in bench.candidates if candidate.operation == "teacher"}
    return {
        candidate.pair: 0.0
        if candidate.operation == "teacher"
        else float(max(0.1, 1 - candidate.macs / own[candidate.layer.name]) * rng.lognormal(0.0, 0.7))
        for candidate in bench.candidates
    }


def chosen_students(bench: Bench, count: int, draw: int) -> list[Selection]:
    """The program's choices for budgets over the range, each for losses of its own."""
    selections = []
    for seed, share in enumerate(np.linspace(*RANGE, count), start=1 + draw * DRAWN):
        model = dataclasses.replace(bench.search.model, scores=synthetic_losses(bench, seed))
        selection = model.solve(share * model.teacher_ms)
        if selection:
            selections.append(selection)
    return selections


def random_students(bench: Bench, count: int, draw: int) -> list[Selection]:
    """Operations drawn at each layer, slower or faster ones likelier; those nearest to shares over the range."""
    rng, model = np.random.default_rng(draw), bench.search.model
    by_layer = [[o for o in bench.candidates if o.layer.name == layer.name] for layer in bench.layers]
    prediction, drawn = model.prediction, []
    costs = [np.array([prediction.part_ms(candidate.columns) for candidate in candidates]) for candidates in by_layer]
    for _ in range(DRAWN):
        lean = rng.normal(0.0, 4.0)
        weights = [np.exp(lean * cost / cost.max()) for cost in costs]
        picked = [rng.choice(len(weight), p=weight / weight.sum()) for weight in weights]
        summed = prediction.intercept_ms + sum(c[i] for c, i in zip(costs, picked, strict=True))
        share = prediction.bent_ms(summed) / model.teacher_ms
        drawn.append((share, Selection(candidates[i].pair for candidates, i in zip(by_layer, picked, strict=True))))
    selections: list[Selection] = []
    for target in np.linspace(*RANGE, count):
        _, nearest = min(drawn, key=lambda one: abs(one[0] - target))
        drawn = [one for one in drawn if one[1] is not nearest]
        selections.append(nearest)
    return selections


def evaluate(bench: Bench, held_out: int, draw: int, fit_from: float) -> list[dict[str, float | str]]:
    """One row a held-out student: predicted, summed and twice measured milliseconds."""
    bench.search.calibrate()
    bench.search.model = model = dataclasses.replace(bench.search.model, lowest_ratio=fit_from)
    rows: list[dict[str, float | str]] = []
    drawn, log = bench.out / f"students{draw}.json", LatencyLog.read(bench.out / f"held_out{draw}.csv")
    if not drawn.is_file():  # once, by the fit of that time
        half = held_out // 2
        origins = {
            "program": chosen_students(bench, held_out - half, draw),
            "random": random_students(bench, half, draw),
        }
        write_json(drawn, [(origin, dict(one)) for origin, selections in origins.items() for one in selections])
    students = [(origin, Selection(operations)) for origin, operations in json.loads(drawn.read_text())]
    for _ in range(2 - len(log.rows) // len(students)):
        selections = [selection for _, selection in students]
        log.add(selections, bench.latencies(selections, PROCESSES))
    own = sum(candidate.columns["latency_ms"] for candidate in bench.candidates if candidate.operation == "teacher")
    for origin, selection in students:
        first, second = [m.ratio * model.teacher_ms for m in log.rows if m.selection == selection][:2]
        summed = sum(candidate.columns["latency_ms"] for candidate in model.parts(selection))
        rows.append(
            {
                "model": bench.recipe.teacher.model,
                "runtime": bench.recipe.profiling.runtime,
                "origin": origin,
                "measured_ms": (first + second) / 2,
                "predicted_ms": model.predicted_ms(selection),
                "sum_ms": summed / own * model.teacher_ms,  # scaled to be right for the teacher
                "first_ms": first,
                "second_ms": second,
            }
        )
    return rows


def tell(bench: Bench, rows: Sequence[Mapping[str, float | str]]) -> None:
    value = {name: np.array([float(row[name]) for row in rows]) for name in list(rows[0])[3:]}
    model, networks = bench.search.model, bench.search.model.measured_networks()
    shares = value["measured_ms"] / model.teacher_ms
    print(
        f"{bench.recipe.teacher.model} on {bench.recipe.profiling.runtime}, {bench.settings.threads} thread: teacher "
        f"{model.teacher_ms:.2f} ms, {len(rows)} students held out, {shares.min():.2f}x to {shares.max():.2f}x"
    )
    against = {"predicted": "measured_ms", "sum": "measured_ms", "second": "first_ms"}
    for name, reference in against.items():
        error = value[f"{name}_ms"] / value[reference] - 1
        by = [f"{o} {np.abs(error[[r['origin'] == o for r in rows]]).mean():.1%}" for o in ("program", "random")]
        print(
            f"  {name:10s} mean absolute error {np.abs(error).mean():.2%} ({', '.join(by)}), bias {error.mean():+.2%}"
            f", within 10% {(np.abs(error) <= 0.1).mean():.1%}, largest {np.abs(error).max():.1%}"
        )
    prediction = model.prediction
    weights = ", ".join(f"{name} {prediction.coefficients[name]:.3g}" for name in COLUMNS)
    print(f"  fitted on {len(networks)}: intercept {prediction.intercept_ms:.3f} ms, {weights}; its own")
    print(f"  leave-one-out: {held_out_error(networks)}")


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--runtime", default="onnxruntime-cpu")
@click.option("--threads", default=1)
@click.option("--held-out", default=40, help="Students that no fit sees, half of them chosen by the program.")
@click.option("--calibrate", default=Recipe().selecting.calibrate, help="Students that the correction is fitted on.")
@click.option(
    "--fit-from", default=LOWEST_BUDGET_RATIO, help="Calibrating students below this share of the latency are left out."
)
@click.option("--draw", default=0, help="Which students are held out: another number, others.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the measurements; the command resumes from it.",
)
@click.option("--csv", "table", type=click.Path(path_type=Path), help="Append a row a student.")
def main(
    models: tuple[str, ...],
    runtime: str,
    threads: int,
    held_out: int,
    calibrate: int,
    fit_from: float,
    draw: int,
    out: Path,
    table: Path | None,
) -> None:
    for model in models:
        folder = out / f"{model.replace(':', '-')}-{runtime}-{threads}"
        bench = Bench(Recipe(model=model, runtime=runtime, threads=threads, calibrate=calibrate), folder)
        rows = evaluate(bench, held_out, draw, fit_from)
        tell(bench, rows)
        shutil.rmtree(bench.networks)
        if table:
            new = not table.exists()
            table.parent.mkdir(parents=True, exist_ok=True)
            with table.open("a", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


if __name__ == "__main__":
    main()
