"""Fill the tables of the results pages and of the README from the CSV files.

    python benchmarks/results_pages.py [--check]

A page names a table between two comments; the lines between them are replaced:

    <!-- table comparison.csv experiment=zen5-20 at=0.5x: network, latency_ratio, accuracy_percent -->
    <!-- end -->

A condition may allow several values (`at=0.5x|0.3x`) or exclude them (`at!=0.3x`). The suffix of a column is its unit:
`_ratio` is a share of the teacher's latency, `_points` are percentage points, shown with their 95% interval.
"""

from __future__ import annotations

import csv
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results"
README = BENCHMARKS.parent / "README.md"
TABLE = re.compile(r"(<!-- table ([^:]+): ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADERS = {
    "latency_ratio": "latency",
    "batch8_ratio": "at batch 8",
    "before_percent": "before tuning",
    "accuracy_percent": "accuracy",
    "seed_accuracies_percent": "each seed",
    "ahead_points": "lana's less this (95% interval)",
    "above_sum": "above the sum",
    "above_layers": "above layers replaced",
    "above_latency": "above latency",
    "state": "met",
    "tau": "τ of corrected scores (95% interval)",
    "sum_tau": "τ of the plain sum",
    "layers_tau": "τ of layers replaced",
    "latency_tau": "τ of latency",
    "ratio": "measured",
    "within_half_ratio": "within 0.5x",
    "within_third_ratio": "within 0.3x",
    "within_tenth_percent": "within 10%",
    "sum_within_tenth_percent": "sum: within 10%",
    "sum_error_percent": "sum: error",
    "upper95": "upper 95% bound",
    "at_least_95_used": "at least 95% used, where it can be",
}
SUFFIXES = {"ratio": "x", "percent": "%"}
UNITS = {"ms": ", ms", "s": ", s", "nats": ", nats"}

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def budgets() -> list[Row]:
    """One row a file of `budgets.py`: how many students were measured within their budgets."""
    machines = {"budgets.csv": "EPYC-1", "budgets-amd-epyc.csv": "Zen 3", "budgets-amd-epyc-zen5.csv": "Zen 5"}
    rows = []
    for name, machine in machines.items():
        students = read(RESULTS / name)
        able = [row for row in students if row["could_use"] == "True"]
        excess = max(float(row["ratio"]) / float(row["budget"]) - 1 for row in students)
        rows.append(
            {
                "machine": machine,
                "students": str(len(students)),
                "upper_bound_within": f"{sum(row['within'] == 'True' for row in students)} of {len(students)}",
                "largest_excess_of_a_median": _signed(f"{excess:+.2%}"),
                "at_least_95_used": f"{sum(float(row['used']) >= 0.95 for row in able)} of {len(able)}",
            }
        )
    return rows


def coverage() -> list[Row]:
    libraries = {"timm": "timm, a network a family", "torchvision": "torchvision", "benchmarks": "Transformers 5.24"}
    networks = read(RESULTS / "coverage.csv")
    rows = []
    for start, library in libraries.items():
        of_library = [row for row in networks if row["network"].startswith(start)]
        complete = sum(row["complete"] == "yes" for row in of_library)
        counts = {"networks": str(len(of_library)), "complete": str(complete)}
        rows.append({"library": library, **counts, "complete_percent": f"{complete / len(of_library) * 100:.1f}"})
    return rows


def claims() -> list[Row]:
    """Rows of comparison.csv that name the page they head, each with the most accurate rival of its latency."""
    comparison = read(RESULTS / "comparison.csv")
    rows = []
    for student in (row for row in comparison if row["headline"]):
        place = (student["experiment"], student["at"])
        rivals = [row for row in comparison if (row["experiment"], row["at"]) == place and row["tool"] != "lana"]
        rival = max((row for row in rivals if row["tool"] != "teacher"), key=_accuracy, default=rivals[0])
        latency = f" at {rival['latency_ratio']}x" if rival["latency_ratio"] else ""
        rows.append(
            {
                "network": student["teacher"],
                "latency_ratio": student["latency_ratio"],
                "accuracy_percent": student["accuracy_percent"],
                "best_rival_at_that_latency": f"{rival['network']}: {rival['accuracy_percent']}%{latency}",
                "difference_points": rival["ahead_points"],
                "difference_low_points": rival["ahead_low_points"],
                "difference_high_points": rival["ahead_high_points"],
                "epochs": student["epochs"],
                "seeds": student["seeds"],
                "measured_on": f"[{student['machine']}](benchmarks/results/{student['headline']})",
            }
        )
    return rows


DERIVED: dict[str, Callable[[], list[Row]]] = {"budgets": budgets, "coverage": coverage, "claims": claims}


def _accuracy(row: Row) -> float:
    return float(row["accuracy_percent"])


def _signed(text: str) -> str:
    return text.replace("-", "−")


def cell(row: Row, column: str) -> str:
    stem, _, unit = column.rpartition("_")
    value = row.get(column, "")
    within = f"{stem}_{{}}_points" if unit == "points" else f"{column}_{{}}"
    low, high = row.get(within.format("low")), row.get(within.format("high"))
    if low:
        interval = f"{low} to {high}"
        return _signed(f"{value} ({interval})" if value else interval)
    if column == "page":
        return f"[{value.removesuffix('.md')}]({value})"
    if column == "parameters" and value:
        return f"{int(value):,}"
    if unit in SUFFIXES and value[-1:].isdigit():
        return ", ".join(_signed(part) + SUFFIXES[unit] for part in value.split(";"))
    return _signed(value) if re.fullmatch(r"-[\d.]+", value) else value


def header(column: str) -> str:
    if column in HEADERS:
        return HEADERS[column]
    stem, _, unit = column.rpartition("_")
    if unit in UNITS:
        return stem.replace("_", " ") + UNITS[unit]
    return (stem if unit in {"ratio", "percent", "points"} else column).replace("_", " ")


def table(source: str, columns: Sequence[str]) -> str:
    name, *conditions = shlex.split(source)
    rows = DERIVED[name]() if name in DERIVED else read(_file(name))
    for condition in conditions:
        column, _, values = condition.partition("=")
        excluded = column.endswith("!")
        rows = [row for row in rows if (row[column.rstrip("!")] in values.split("|")) != excluded]
    if not rows:
        raise ValueError(f"No row of {name} meets: {' '.join(conditions)}.")
    lines = [[header(column) for column in columns], ["---"] * len(columns)]
    lines += [[cell(row, column) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _file(name: str) -> Path:
    return RESULTS / name if (RESULTS / name).is_file() else BENCHMARKS / name


def filled(text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        start, source, columns, end = match.groups()
        return start + table(source, [column.strip() for column in columns.split(",")]) + end

    return TABLE.sub(fill, text)


def outdated(pages: Iterable[Path]) -> list[Path]:
    return [page for page in pages if filled(page.read_text()) != page.read_text()]


def pages() -> list[Path]:
    return [README, *sorted(RESULTS.glob("*.md"))]


def main() -> None:
    stale = outdated(pages())
    if "--check" in sys.argv[1:]:
        sys.exit("".join(f"{page} is older than its CSV files.\n" for page in stale) or 0)
    for page in stale:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
