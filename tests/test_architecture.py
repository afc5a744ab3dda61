"""The limits that keep the code readable: sizes of files, classes and functions, and what stands where."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lana", "profilers", "solvers")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES, MEDIAN_FILE_LINES = 350, 120
MAX_CLASS_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 200, 50, 7
MAX_README_LINES, MAX_RESULTS_LINES = 90, 80
COMMANDS = ROOT / "lana" / "cli"  # a command takes one parameter for each of its options


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def definitions(kind: type | tuple[type, ...]) -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_no_file_is_longer_than_350_lines():
    assert {str(path.relative_to(ROOT)): lines(path) for path in SOURCES if lines(path) > MAX_FILE_LINES} == {}


def test_the_median_file_has_at_most_120_lines():
    sizes = [lines(path) for path in SOURCES if path.read_text().strip()]
    assert statistics.median(sizes) <= MEDIAN_FILE_LINES


def test_no_class_is_longer_than_200_lines():
    sizes = {where: node.end_lineno - node.lineno + 1 for where, node in definitions(ast.ClassDef)}
    assert {where: size for where, size in sizes.items() if size > MAX_CLASS_LINES} == {}


def test_no_function_is_longer_than_50_lines():
    sizes = {
        where: node.end_lineno - node.lineno + 1
        for where, node in definitions(ast.FunctionDef)
        if not where.startswith(str(COMMANDS.relative_to(ROOT)))
    }
    assert {where: size for where, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def test_no_function_takes_more_than_7_parameters():
    counts = {}
    for where, node in definitions(ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        counts[where] = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
    commands = str(COMMANDS.relative_to(ROOT))
    assert {w: n for w, n in counts.items() if n > MAX_PARAMETERS and not w.startswith(commands)} == {}


def test_only_the_story_stands_directly_under_lana():
    modules = {path.stem for path in (ROOT / "lana").glob("*.py")}
    assert modules <= {"__init__", "__main__", "version", "errors", "pipeline", "standalone", "survey"}


def test_importing_lana_loads_nothing_heavy():
    script = "import sys, lana; print([m for m in ('torch', 'pandas', 'onnx', 'onnxruntime') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_readme_is_short():
    assert lines(ROOT / "README.md") <= MAX_README_LINES


@pytest.mark.parametrize("page", sorted((ROOT / "benchmarks" / "results").glob("*.md")), ids=lambda page: page.stem)
def test_a_results_page_is_short(page):
    assert lines(page) <= MAX_RESULTS_LINES
