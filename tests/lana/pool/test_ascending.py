"""Which operations are measured, on a device that is a formula."""

import dataclasses
from types import SimpleNamespace

import pytest

from lana.errors import LanaError
from lana.networks.layers import Layer
from lana.operations.chains import chain_of
from lana.operations.families import parse_operation
from lana.pool.ascending import measure_ascending, waves
from lana.pool.candidates import not_built

WIDTHS = (0.25, 0.5, 1, 2, 3, 4)


def layer(name, *members):
    shape = (8, 4, 4)
    return Layer(name=name, input_shape=shape, output_shape=shape, layout="nchw", macs=1, members=members or (name,))


def plan(place, *operations):
    return [(place, parse_operation(operation)) for operation in operations]


def bottlenecks(place, kernel=3):
    return plan(place, *(f"cb_bottle_k{kernel}_w{width:g}" for width in reversed(WIDTHS)))


class Table(dict):
    """Stands for a `LatencyTable`: key → milliseconds."""

    interval = 0.01

    def lookup(self, key):
        return SimpleNamespace(latency_ms=self[key], interval=self.interval)


def measured(planned, milliseconds, interval=0.01, key_of=lambda place, name: f"{place.name} {name}", broken=()):
    """The offers, and the keys that were built and measured, wave by wave."""
    table, asked = Table(), []
    table.interval = interval

    def build(place, operation):
        candidate = not_built(place, operation, "cannot be built")
        if operation.name in broken:
            return candidate
        return dataclasses.replace(candidate, key=key_of(place, operation.name), kept=True, reason="")

    def measure(wave):
        asked.append([candidate.key for candidate in wave])
        table.update({candidate.key: milliseconds(candidate.key) for candidate in wave})
        return table

    return measure_ascending(planned, build, measure)[0], asked


def by_width(key):
    """The teacher's own takes 1 ms, a bottleneck as many as its width."""
    return 1.0 if key.endswith("teacher") else float(key.rpartition("_w")[2])


def test_a_family_is_built_and_measured_until_it_is_clearly_slower():
    place = layer("block")
    found, asked = measured([*plan(place, "teacher"), *bottlenecks(place)], by_width)
    widths = [by_width(key) for wave in asked for key in wave if "cb" in key]
    assert widths == [0.25, 0.5, 1, 2]
    left_out = {o.operation: o.reason for o in found if not o.kept}
    why = "wider than cb_bottle_k3_w2, which is clearly slower than the teacher's own"
    assert left_out == {"cb_bottle_k3_w3": why, "cb_bottle_k3_w4": why}


def test_what_noise_may_explain_stops_nothing():
    place = layer("block")
    found, _ = measured([*plan(place, "teacher"), *bottlenecks(place)], lambda key: min(2.0, by_width(key)), 0.4)
    assert all(o.kept for o in found)


def test_each_chain_and_each_layer_stops_for_itself():
    slow, fast = layer("slow"), layer("fast")
    planned = [*plan(slow, "teacher"), *bottlenecks(slow), *bottlenecks(slow, 5), *plan(fast, "teacher")]
    planned += bottlenecks(fast)
    own = {"slow teacher": 3.0, "fast teacher": 0.3}
    found, _ = measured(planned, lambda key: own.get(key) or by_width(key) * (2 if "k5" in key else 1))
    kept = {o.pair for o in found if o.kept and "cb" in o.operation}
    assert {op for name, op in kept if name == "slow" and "k5" in op} == {
        f"cb_bottle_k5_w{w:g}" for w in (0.25, 0.5, 1, 2)
    }
    assert ("slow", "cb_bottle_k3_w4") in kept
    assert {op for name, op in kept if name == "fast"} == {"cb_bottle_k3_w0.25", "cb_bottle_k3_w0.5"}


def test_a_span_is_compared_with_all_that_it_covers():
    first, second = layer("first"), layer("second")
    both = layer("first+second", "first", "second")
    planned = [*plan(first, "teacher"), *plan(second, "teacher"), *bottlenecks(both)]
    found, _ = measured(planned, by_width)
    assert [o.operation for o in found if not o.kept] == ["cb_bottle_k3_w4"]  # the one of 3 ms came first


def test_what_cannot_be_built_is_passed_over():
    place = layer("block")
    planned = plan(place, "teacher", "cb_bottle_k3_w0.1")
    found, asked = measured(planned, by_width, broken=["cb_bottle_k3_w0.1"])
    assert asked == [["block teacher"]]
    assert [o.reason for o in found] == ["", "cannot be built"]
    with pytest.raises(LanaError, match="cannot be built"):
        measured(planned[1:], by_width, broken=["cb_bottle_k3_w0.1"])


def test_the_growing_parameter_orders_a_chain():
    assert chain_of("efn_e3_k5_se0")[1] == 3
    assert chain_of("linear_k3") == (("linear", ()), 3)
    place = layer("block")
    order = [[op.name for _, op in wave] for wave in waves([*plan(place, "identity"), *bottlenecks(place)])]
    assert order[0] == ["identity", "cb_bottle_k3_w0.25"]
    assert order[-1] == ["cb_bottle_k3_w4"]
