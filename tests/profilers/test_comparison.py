"""Processes that are repeated, and those that count; no process is started."""

import pytest

from profilers.comparison import ProcessFound, compared, goes_on


def process(*calm, ratio=0.5):
    return ProcessFound(
        ratios=(ratio,) * len(calm), calm=calm, reference_ms=2.0, waited=0.0 if all(calm) else 0.4, watched="switches"
    )


@pytest.mark.parametrize(
    ("calm", "more"),
    [
        ("cccc", True),
        ("ccccc", False),
        ("ccdcc", True),  # a disturbed one is repeated
        ("ccdccc", False),
        ("ddddd", True),  # one more shows whether calm comes
        ("dddddd", False),
        ("dddddc", True),
        ("cdddddddd", True),
        ("cddddddddd", False),  # twice as many, no more
    ],
)
def test_disturbed_processes_are_repeated(calm, more):
    assert goes_on([process(one == "c") for one in calm], 5) == more


def test_a_process_is_repeated_where_one_candidate_was_disturbed():
    assert goes_on([process(True, True)] * 4 + [process(True, False)], 5)


def test_calm_processes_count_before_disturbed_ones():
    done = [process(False, ratio=0.9), *[process(True, ratio=0.5)] * 2, process(False, ratio=0.8)]
    two, three = compared(done, 0, 2), compared(done, 0, 3)
    assert two.ratios == (0.5, 0.5)
    assert two.calm == (True, True)
    assert three.ratios == (0.9, 0.5, 0.5)
    assert three.calm == (False, True, True)
    assert three.waited == (0.4, 0.0, 0.0)
    assert three.watched == "switches"
