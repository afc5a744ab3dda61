"""The sampling loop under a simulated clock, so that the truth is known."""

import math
import random
import statistics

import pytest
from simulated_machine import FakeSession, Machine

from profilers import ProfilerError, Protocol
from profilers.clock import Clocks, Switches
from profilers.measurement import Measurement, Round, median_interval
from profilers.timing import Item, sample, steady


def calibrate_on(machine):
    def calibrate():
        start = machine.clock()
        machine.work(1e-3)
        return (machine.clock() - start) / 1e-3

    return calibrate


def test_calibration_takes_the_drift_out():
    machine = Machine(drift=0.3)
    truths = [1e-3 * (1 + i) for i in range(20)]
    items = [Item(FakeSession(machine, seconds), []) for seconds in truths]
    sample(items, protocol=Protocol(evict_mb=0), calibrate=calibrate_on(machine), clocks=Clocks(machine.clock))
    for truth, item in zip(truths, items, strict=True):
        found = Measurement(rounds=tuple(item.rounds))
        assert found.latency_ms == pytest.approx(truth * 1e3, rel=0.03)
        assert len(found.rounds) == Protocol().rounds


def test_without_it_the_drift_would_show():
    machine = Machine(drift=0.3)
    items = [Item(FakeSession(machine, 2e-3), []) for _ in range(20)]
    sample(items, protocol=Protocol(evict_mb=0), calibrate=lambda: 1.0, clocks=Clocks(machine.clock))
    spread = [one.latency_s for item in items for one in item.rounds]
    assert max(spread) / min(spread) > 1.2


def spread(items):
    """Of the times of an item over its rounds, relative, the mean over items."""
    deviations = [statistics.pstdev(math.log(one.latency_s) for one in item.rounds) for item in items]
    return statistics.fmean(deviations)


def test_an_index_that_only_scatters_adds_nothing():
    machine, scatter = Machine(drift=0, noise=0.01), random.Random(1)
    items = [Item(FakeSession(machine, 1e-3 * (1 + i)), []) for i in range(20)]
    sample(
        items,
        protocol=Protocol(evict_mb=0),
        calibrate=lambda: math.exp(scatter.gauss(0, 0.1)),
        clocks=Clocks(machine.clock),
    )
    assert spread(items) < 0.02  # the square root of two of them would scatter by 0.07


def test_an_index_that_is_true_is_followed():
    machine = Machine(drift=0.3, noise=0.01)
    items = [Item(FakeSession(machine, 1e-3 * (1 + i)), []) for i in range(20)]
    sample(items, protocol=Protocol(evict_mb=0), calibrate=calibrate_on(machine), clocks=Clocks(machine.clock))
    assert spread(items) < 0.05  # without calibration 0.2
    assert steady(items) > 0.5


def test_slow_items_get_fewer_rounds_but_three():
    machine = Machine(drift=0)
    slow, fast = Item(FakeSession(machine, 2.0), []), Item(FakeSession(machine, 1e-3), [])
    sample(
        [slow, fast], protocol=Protocol(evict_mb=0, limit_s=3.0), calibrate=lambda: 1.0, clocks=Clocks(machine.clock)
    )
    assert len(slow.rounds) == 3
    assert len(fast.rounds) == Protocol().rounds


def test_the_order_is_shuffled_and_a_seed_repeats_it():
    def order(seed):
        seen, machine = [], Machine()
        items = [Item(FakeSession(machine, 1e-3), []) for _ in range(10)]
        sample(
            items,
            protocol=Protocol(evict_mb=0, seed=seed),
            calibrate=lambda: 1.0,
            clocks=Clocks(machine.clock),
            at=seen.append,
        )
        return seen

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:10] != order(1)[10:20]
    assert sorted(order(1)[:10]) == list(range(10))


def test_a_protocol_is_checked():
    with pytest.raises(ProfilerError, match="rounds=0"):
        Protocol(rounds=0)
    with pytest.raises(ProfilerError, match="most_processes=1"):
        Protocol(processes=3, most_processes=1)


def test_noise_is_said():
    quiet = [Round(runs_s=(1e-3 * (1 + 0.001 * i),), cold_s=2e-3, index=1.0) for i in range(12)]
    loud = [Round(runs_s=(1e-3 * (1 + 0.1 * i),), cold_s=2e-3, index=1.0) for i in range(12)]
    assert not Measurement(rounds=tuple(quiet)).noisy
    assert Measurement(rounds=tuple(loud)).noisy
    assert Measurement(rounds=tuple(quiet[:5])).noisy  # too few rounds to bound anything


def test_the_interval_covers_the_median_as_often_as_it_says():
    generator = random.Random(0)
    covered = 0
    for _ in range(2000):
        low, high = median_interval([generator.gauss(0, 1) for _ in range(15)])
        covered += low <= 0 <= high
    assert 0.95 <= covered / 2000 <= 0.985


def test_a_measurement_survives_its_json():
    rounds = tuple(Round(runs_s=(1e-3, 1.1e-3), cold_s=2e-3, index=1.02, process=i) for i in range(6))
    again = Measurement.from_json(Measurement(rounds=rounds).to_json())
    assert again.latency_ms == pytest.approx(Measurement(rounds=rounds).latency_ms, rel=1e-4)
    with pytest.raises(ProfilerError, match="at least one round"):
        Measurement(rounds=())


def test_visits_that_another_process_disturbed_do_not_count():
    rounds = [
        Round(runs_s=(t * 1e-3,), cold_s=2e-3, index=1.0, process=p, calm=calm)
        for p, t, calm in [(0, 1.0, True)] * 6 + [(1, 2.0, False)] * 10 + [(1, 1.0, True)] * 2
    ]
    found = Measurement(rounds=tuple(rounds))
    assert found.latency_ms == 1.0
    assert found.calm_processes == 1
    few = Measurement(rounds=tuple(rounds[1:6] + rounds[6:16]))
    assert few.latency_ms == 2.0  # five calm rounds bound nothing: all count
    assert [one.calm for one in Measurement.from_json(found.to_json()).rounds] == [one.calm for one in rounds]


def test_a_visit_is_marked_where_the_processor_was_taken():
    machine, taken = Machine(drift=0), 0

    class Taken(FakeSession):
        def durations(self, count, clock):
            nonlocal taken
            taken += 1
            return super().durations(count, clock)

    items = [Item(FakeSession(machine, 1e-3), []), Item(Taken(machine, 1e-3), [])]
    clocks = Clocks(machine.clock, switches=Switches(lambda: taken))
    sample(items, protocol=Protocol(evict_mb=0), calibrate=lambda: 1.0, clocks=clocks)
    assert all(one.calm for one in items[0].rounds)
    assert not any(one.calm for one in items[1].rounds)
