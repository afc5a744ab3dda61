"""Which operations are measured, on a device that is a formula."""

import dataclasses
from types import SimpleNamespace

import pytest

from lana.ascending import chain_of, measure_ascending, waves
from lana.errors import LanaError
from lana.layers import Layer
from lana.profiling import Offer

WIDTHS = (0.25, 0.5, 1, 2, 3, 4)


def layer(name, *members):
    shape = (8, 4, 4)
    return Layer(name=name, input_shape=shape, output_shape=shape, layout="nchw", macs=1, members=members or (name,))


def offer(place, operation, key=None):
    family, numbers = operation.partition("_")[0], {"parameters": 1.0, "macs": 1.0, "operators": 1.0}
    return Offer(layer=place, operation=operation, family=family, key=key or f"{place.name} {operation}", **numbers)


def bottlenecks(place, kernel=3):
    return [offer(place, f"cb_bottle_k{kernel}_w{width:g}") for width in reversed(WIDTHS)]


class Table(dict):
    """Stands for a `LatencyTable`: key → milliseconds."""

    interval = 0.01

    def lookup(self, key):
        return SimpleNamespace(latency_ms=self[key], interval=self.interval)


def measured(offers, milliseconds, interval=0.01):
    table, asked = Table(), []
    table.interval = interval

    def measure(wave):
        asked.append([computation.key for computation in wave])
        table.update({computation.key: milliseconds(computation.key) for computation in wave})
        return table

    keys = dict.fromkeys(offer.key for offer in offers if offer.key)
    found, _ = measure_ascending(offers, [SimpleNamespace(key=key) for key in keys], measure)
    return found, asked


def by_width(key):
    """The teacher's own takes 1 ms, a bottleneck as many as its width."""
    return 1.0 if key.endswith("teacher") else float(key.rpartition("_w")[2])


def test_a_family_is_measured_until_it_is_clearly_slower():
    place = layer("block")
    found, asked = measured([offer(place, "teacher"), *bottlenecks(place)], by_width)
    widths = [by_width(key) for wave in asked for key in wave if "cb" in key]
    assert widths == [0.25, 0.5, 1, 2]
    left_out = {o.operation: o.reason for o in found if not o.kept}
    why = "wider than cb_bottle_k3_w2, which is clearly slower than the teacher's own"
    assert left_out == {"cb_bottle_k3_w3": why, "cb_bottle_k3_w4": why}


def test_what_noise_may_explain_stops_nothing():
    place = layer("block")
    found, _ = measured([offer(place, "teacher"), *bottlenecks(place)], lambda key: min(2.0, by_width(key)), 0.4)
    assert all(o.kept for o in found)


def test_each_chain_and_each_layer_stops_for_itself():
    slow, fast = layer("slow"), layer("fast")
    offers = [offer(slow, "teacher"), *bottlenecks(slow), *bottlenecks(slow, 5), offer(fast, "teacher")]
    offers += [dataclasses.replace(o, layer=fast) for o in bottlenecks(slow)]  # the same structures at another layer
    own = {"slow teacher": 3.0, "fast teacher": 0.3}
    found, asked = measured(offers, lambda key: own.get(key) or by_width(key) * (2 if "k5" in key else 1))
    kept = {(o.layer.name, o.operation) for o in found if o.kept and "cb" in o.operation}
    assert {op for name, op in kept if name == "slow" and "k5" in op} == {
        f"cb_bottle_k5_w{w:g}" for w in (0.25, 0.5, 1, 2)
    }
    assert ("slow", "cb_bottle_k3_w4") in kept
    assert ("fast", "cb_bottle_k3_w4") in kept  # known from the other layer, at no cost
    flat = [key for wave in asked for key in wave]
    assert len(flat) == len(set(flat))


def test_a_span_is_compared_with_all_that_it_covers():
    first, second = layer("first"), layer("second")
    both = layer("first+second", "first", "second")
    offers = [offer(first, "teacher"), offer(second, "teacher"), *bottlenecks(both)]
    found, _ = measured(offers, by_width)
    assert [o.operation for o in found if not o.kept] == ["cb_bottle_k3_w4"]  # the one of 3 ms came first


def test_what_cannot_be_built_is_passed_over():
    place = layer("block")
    broken = dataclasses.replace(offer(place, "cb_bottle_k3_w0.1"), kept=False, reason="cannot be built", key="")
    found, asked = measured([offer(place, "teacher"), broken], by_width)
    assert asked == [["block teacher"]]
    assert found[1] == broken
    with pytest.raises(LanaError, match="cannot be built"):
        measured([broken], by_width)


def test_the_growing_parameter_orders_a_chain():
    assert chain_of("efn_e3_k5_se0")[1] == 3
    assert chain_of("linear_k3") == (("linear", ()), 3)
    place = layer("block")
    order = [[o.operation for o in wave] for wave in waves([offer(place, "identity"), *bottlenecks(place)])]
    assert order[0] == ["identity", "cb_bottle_k3_w0.25"]
    assert order[-1] == ["cb_bottle_k3_w4"]
