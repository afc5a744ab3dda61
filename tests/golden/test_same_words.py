"""Help texts and the keys of a summary, which change only where words are meant to change (`make.py help summary`)."""

import re
from pathlib import Path

import make
import pytest
import today

GOLDEN = Path(__file__).parent


def test_help_of_every_command():
    expected = re.split(r"^\$ (.*) --help\n", (GOLDEN / "help.txt").read_text(), flags=re.MULTILINE)[1:]
    found = today.help_texts()
    assert list(found) == expected[::2]
    for (command, text), golden in zip(found.items(), expected[1::2], strict=True):
        assert text.strip() == golden.strip(), command


def test_fields_of_a_summary():
    expected = make.read(GOLDEN / "summary_keys.json")
    assert today.summary_fields() == [key for key in expected if "." not in key]


@pytest.mark.slow
@pytest.mark.serial
def test_keys_of_a_summary(tmp_path):
    assert today.summary_keys(tmp_path / "run") == make.read(GOLDEN / "summary_keys.json")
