"""Twenty steps of distilling and of fine-tuning, on one thread from a fixed seed, end with the same weights."""

import math
from pathlib import Path

import make
import pytest
import today

GOLDEN = Path(__file__).parent / "weights"


def check(found, expected):
    """Within 1e-5 of a tensor's norm: processors round differently."""
    assert found.keys() == expected.keys()
    for name, digest in expected.items():
        for ours, theirs in zip(found[name], digest, strict=True):
            assert math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-5 * max(1.0, digest[1])), name


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return today.distilled(tmp_path_factory.mktemp("distilled"), make.DISTILLED, make.STEPS)


def test_distilled_operations(distilled):
    check(make.digests(distilled[0]), make.read(GOLDEN / "distilled.json"))


def test_scores_of_distilled_operations(distilled):
    expected = make.read(GOLDEN / "scores.json")
    assert distilled[1] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", make.FINETUNED)
def test_a_fine_tuned_student(name, tmp_path):
    check(make.digests(make.tune(tmp_path, name)), make.read(GOLDEN / f"finetuned-{name}.json"))
