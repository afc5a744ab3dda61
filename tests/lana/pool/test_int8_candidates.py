"""int8 variants: measured beside their fp32, kept where they can pay, with the conversions at their ends."""

from types import SimpleNamespace

import pytest

from lana.operations.families import parse_operation
from lana.pool.builder import Builder
from lana.pool.candidates import with_latencies
from lana.pool.int8_candidates import with_int8

OVERHEAD_MS, CONVERSION_MS, FLOAT_MS = 0.003, 0.005, 0.1


class Table:
    """Rows by a formula: int8 takes a share of fp32, by the name of the operation."""

    def __init__(self, builder, share):
        self.names, self.share = {key: one.name for key, one in builder.computations.items()}, share

    def lookup(self, key):
        name = self.names[key]
        ms = {"identity": OVERHEAD_MS, "conversion@int8": OVERHEAD_MS + CONVERSION_MS}.get(name.split(" (")[0])
        if ms is None:
            ms = FLOAT_MS * (self.share if "@int8" in name else 1.0)
        return SimpleNamespace(latency_ms=ms, cold_ms=ms, interval=0.01, error="")


@pytest.fixture(scope="module")
def builder(digits_teacher, tmp_path_factory):
    return Builder(digits_teacher, batch=1, folder=tmp_path_factory.mktemp("computations"))


@pytest.fixture(scope="module")
def plain(builder, digits_scan):
    layer = digits_scan.layers[1]
    names = ("teacher", "identity", "pruned_w0.5")
    return [builder.candidate(layer, parse_operation(name)) for name in names]


def variants(builder, plain, share):
    made = with_int8(with_latencies(plain, Table(builder, share)), builder, lambda _: Table(builder, share))
    return {candidate.operation: candidate for candidate in made}


def test_a_conversion_costs_what_its_row_has_beyond_an_empty_run(builder, plain):
    made = variants(builder, plain, 0.5)["pruned_w0.5@int8"]
    assert made.input_conversion_ms == pytest.approx(CONVERSION_MS)
    assert made.output_conversion_ms == pytest.approx(CONVERSION_MS)


def test_a_skip_in_int8_costs_a_conversion_and_no_operation(builder, plain):
    skip = variants(builder, plain, 0.5)["identity@int8"]
    assert skip.columns["latency_ms"] == pytest.approx(CONVERSION_MS)
    assert skip.columns["operations"] == 0


@pytest.mark.parametrize(("share", "kept"), [(0.5, True), (1.01, True), (1.03, False), (1.5, False)])
def test_a_variant_is_kept_where_it_can_be_faster_between_int8_neighbours(builder, plain, share, kept):
    """Between neighbours, half of the conversion at either end is left out: 5 of 100 µs."""
    assert variants(builder, plain, share)["pruned_w0.5@int8"].kept == kept
