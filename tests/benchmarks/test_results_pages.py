"""The pages of results: up to date with their CSV files, in five parts, short."""

import importlib.util
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ["Claim", "Table", "Command", "Conditions", "Limits"]

spec = importlib.util.spec_from_file_location("results_pages", BENCHMARKS / "results_pages.py")
results_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results_pages)

PAGES = sorted(results_pages.RESULTS.glob("*.md"))
QUESTIONS = [page for page in PAGES if page.name not in {"README.md", "setup.md"}]


def prose(page: Path) -> str:
    """The page without tables, code, links' targets and what is between backticks."""
    text = re.sub(r"^( {4,}|\||<!--).*$", "", page.read_text(), flags=re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)


def test_tables_are_those_of_the_csv_files():
    assert results_pages.outdated(results_pages.pages()) == []


@pytest.mark.parametrize("page", QUESTIONS, ids=lambda page: page.stem)
def test_a_page_answers_one_question_in_five_parts(page):
    text = page.read_text()
    assert text.splitlines()[0].endswith("?")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == PARTS
    assert len(text.splitlines()) <= 80
    assert "<!-- table " in text


@pytest.mark.parametrize("page", [*PAGES, results_pages.README], ids=lambda page: page.stem)
def test_no_sentence_holds_nine_numbers(page):
    for sentence in re.split(r"(?<=[.:?!])\s+|\n\n|^- ", prose(page), flags=re.MULTILINE):
        assert len(re.findall(r"(?<![\w-])[+−]?\d[\d.,]*", sentence)) < 9, sentence


@pytest.mark.parametrize("page", [*PAGES, results_pages.README], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_index_names_every_page():
    named = {row["page"] for row in results_pages.read(results_pages.RESULTS / "goals.csv")}
    assert named == {page.name for page in QUESTIONS}


def test_prediction_summaries_agree_with_the_students_they_sum_up():
    """The CSV files of students hold five digits of a millisecond, so the second decimal of a percentage may differ."""
    students = {}
    for summary in results_pages.read(results_pages.RESULTS / "prediction_summary.csv"):
        rows = students.setdefault(summary["rows"], results_pages.read(results_pages.RESULTS / summary["rows"]))
        forty, students[summary["rows"]] = rows[:40], rows[40:]
        assert {row["runtime"] for row in forty} == {summary["runtime"]}
        errors = [abs(float(row["predicted_ms"]) / float(row["measured_ms"]) - 1) for row in forty]
        assert sum(errors) / 40 * 100 == pytest.approx(float(summary["error_percent"]), abs=0.011)
        assert sum(error <= 0.1 for error in errors) / 40 * 100 == pytest.approx(float(summary["within_tenth_percent"]))
