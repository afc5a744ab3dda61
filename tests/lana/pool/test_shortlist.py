"""Which operations are worth training, once it is known how fast they are."""

import pytest

from lana.errors import UserError
from lana.networks.layers import Layer
from lana.pool.candidates import Candidate, read_candidates, write_candidates
from lana.pool.shortlist import shortlist
from lana.runs.time_plan import STEPS_OF_A_SPAN


def layer(*members):
    return Layer(
        name="+".join(members), input_shape=(64, 8, 8), output_shape=(64, 8, 8), layout="nchw", macs=64, members=members
    )


def candidate(where, operation, latency_ms, macs):
    family = operation.rpartition("_")[0] or operation
    return Candidate(
        layer=where, operation=operation, family=family, key=f"{where.name} {operation}", parameters=0, macs=macs,
        operators=1, activations=1, latency_ms=latency_ms, overhead_ms=0.01,
    )  # fmt: skip


def kept(candidates):
    return {o.pair: o.reason or "kept" for o in shortlist(candidates)}


def test_widths_that_run_slower_than_wider_ones_are_not_trained():
    """A block of 64 channels takes 42 µs at 48 and 63 µs at 49: the table decides, not a fixed rounding."""
    here = layer("block")
    candidates = [
        candidate(here, "teacher", 0.070, 64),
        candidate(here, "pruned_w0.75", 0.042, 48),
        candidate(here, "pruned_w0.625", 0.060, 40),
        candidate(here, "pruned_w0.7656", 0.063, 49),
        candidate(here, "pruned_w0.5", 0.030, 32),
        candidate(here, "low_rank_r0.5", 0.071, 60),
    ]
    assert kept(candidates) == {
        ("block", "teacher"): "kept",
        ("block", "pruned_w0.75"): "kept",
        ("block", "pruned_w0.625"): "another one of its latency is preferred",
        ("block", "pruned_w0.7656"): "kept",
        ("block", "pruned_w0.5"): "kept",
        ("block", "low_rank_r0.5"): "no faster than the teacher's own",
    }


def test_half_the_resolution_is_tried_beside_fewer_channels():
    """Size does not tell which of the two loses less: that depends on the layer's resolution."""
    here = layer("block")
    candidates = [
        candidate(here, "teacher", 0.070, 64),
        candidate(here, "pruned_w0.25", 0.020, 17),
        candidate(here, "low_rank_r0.25", 0.020, 16),
        candidate(here, "halved_w1", 0.020, 16),
    ]
    assert {name for (_, name), reason in kept(candidates).items() if reason == "kept"} == {
        "teacher", "pruned_w0.25", "halved_w1",
    }  # fmt: skip


def test_a_span_must_be_faster_than_its_members_together():
    one, two, both = layer("a"), layer("b"), layer("a", "b")
    # the larger kernel contains the smaller one and is slower
    spans = [candidate(both, f"linear_k{n}", 0.02 + 0.01 * n, n) for n in range(1, 13)]
    found = kept([candidate(one, "teacher", 0.06, 64), candidate(two, "teacher", 0.07, 64), *spans])
    # 0.06 + 0.07 less what starting a runtime takes, 0.01, which is paid once: 0.12, of which 3% are noise
    assert found["a+b", "linear_k10"] == "no faster than the teacher's own"
    assert sum(reason == "kept" for (name, _), reason in found.items() if name == "a+b") == STEPS_OF_A_SPAN


def test_a_pool_of_another_version_is_refused(tmp_path):
    path = tmp_path / "candidates.csv"
    candidates = [candidate(layer("block"), "teacher", 0.07, 64)]
    write_candidates(path, candidates)
    assert read_candidates(path)[0].key == candidates[0].key
    path.write_text(path.read_text().replace("activations", "written"))
    with pytest.raises(UserError, match="another version of lana: it differs in activations, written"):
        read_candidates(path)
