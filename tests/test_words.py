"""The vocabulary of the field: names that were replaced by its terms stand nowhere in the code or the docs."""

import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for part in ("lana", "profilers", "solvers", "benchmarks") for path in (ROOT / part).rglob("*.py")
)
PAGES = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

# Classes, functions, variables and modules, as tokens of the code.
NAMES = {
    *(
        "Offer",
        "offer",
        "offers",
        "keep_promising",
        "Whole",
        "wholes",
        "Setting",
        "Told",
        "Heard",
        "says_what_is_bound",
    ),
    *(
        "form_of",
        "Form",
        "FORMS",
        "arithmetic",
        "arithmetics",
        "optimiser",
        "is_map",
        "is_vector",
        "ever",
        "MARGIN",
        "FEW",
    ),
    *("FAR", "LOWER", "NEAR", "KEPT", "TOLD", "Course", "go_back", "untouched", "with_expected", "Alone", "Together"),
    *("teammate", "fine_tune_together", "Job", "imitation", "looked_into", "passed_over", "PassedOver", "_stands"),
    *("AtHalf", "standing", "beside_its_neighbours", "Selector", "replaced_selection", "keep_apart", "find_rates"),
}
OPTIONS = ("--arithmetic", "--optimiser", "--candidates", "--batch-size", "--precision ", "--form ", "lana score ")
FILES = ("offers.csv", "wholes.csv", "pool/expected")


def tokens(path: Path) -> set[str]:
    read = io.StringIO(path.read_text()).readline
    return {token.string for token in tokenize.generate_tokens(read) if token.type == tokenize.NAME}


def test_code_uses_the_terms_of_the_field():
    found = {str(path.relative_to(ROOT)): sorted(tokens(path) & NAMES) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_no_replaced_option_or_file_is_named():
    found = {}
    for path in (*SOURCES, *PAGES):
        text = path.read_text()
        words = [word for word in (*OPTIONS, *FILES) if re.search(rf"(?<![\w-]){re.escape(word)}", text)]
        if words:
            found[str(path.relative_to(ROOT))] = words
    assert found == {}
