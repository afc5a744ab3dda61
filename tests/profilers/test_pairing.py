"""Whole networks beside a reference, on a simulated machine that another process disturbs."""

import statistics

import pytest
from simulated_machine import FakeSession, Machine, SharedMachine

from profilers.clock import Clocks, Switches, switch_counter, waited_s
from profilers.pairing import LEAST_CALM_ROUNDS, LEAST_ROUNDS, PATIENCE, paired_rounds, watched


def counted(machine):
    return Clocks(machine.clock, switches=Switches(lambda: machine.switches))


def test_ratios_hold_under_drift():
    machine = Machine(drift=0.3, noise=0.01)
    reference = FakeSession(machine, 4e-3)
    candidates = [FakeSession(machine, 4e-3 * ratio) for ratio in (0.25, 0.5, 0.9, 1.0, 1.7)]
    found = paired_rounds(reference, candidates, seconds=2.0, clocks=Clocks(machine.clock))
    assert [statistics.median(r) for r in found.ratios] == pytest.approx([0.25, 0.5, 0.9, 1.0, 1.7], rel=0.02)
    assert len(found.ratios[0]) >= LEAST_ROUNDS
    assert all(second > 0 for second in found.reference_s)


def ratio_on_a_shared_machine(*, working):
    machine = SharedMachine()
    clocks = Clocks(machine.clock, (lambda: machine.now - machine.waited) if working else None)
    found = paired_rounds(FakeSession(machine, 5e-3), [FakeSession(machine, 1e-3)], seconds=1.0, clocks=clocks)
    return statistics.median(found.ratios[0])


def test_a_processor_that_is_shared_makes_no_other_ratio():
    assert ratio_on_a_shared_machine(working=True) == pytest.approx(0.2, rel=0.01)
    assert ratio_on_a_shared_machine(working=False) < 0.15  # the plain clock: the short network is seldom interrupted


def test_runs_during_and_just_after_a_switch_do_not_count():
    machine = SharedMachine(cold=0.5e-3)  # 1 ms each, interrupted every 3 ms
    runs, calm = watched(FakeSession(machine, 1e-3), 30, machine.clock, Switches(lambda: machine.switches))
    assert len(runs) == 30
    assert 0 < len(calm) < 20
    assert calm == pytest.approx([1e-3] * len(calm))
    assert max(runs) > 4e-3


def test_what_counting_takes_is_no_part_of_a_run():
    machine = Machine(drift=0)

    def count():
        machine.now += 1e-4
        return 0

    runs, calm = watched(FakeSession(machine, 1e-3), 5, machine.clock, Switches(count, 1e-4))
    assert runs == calm == pytest.approx([1e-3] * 5)


def test_short_networks_are_measured_between_the_switches():
    machine = SharedMachine(cold=1e-3)
    networks = [FakeSession(machine, seconds) for seconds in (0.4e-3, 0.1e-3)]
    found = paired_rounds(networks[0], networks[1:], seconds=1.0, clocks=counted(machine))
    assert found.calm == [True]
    assert found.ratios[0] == pytest.approx([0.25] * len(found.ratios[0]), rel=1e-6)


def test_where_no_run_is_calm_it_is_said():
    machine = SharedMachine(cold=1e-3)
    found = paired_rounds(
        FakeSession(machine, 5e-3), [FakeSession(machine, 1e-3)], seconds=1.0, clocks=counted(machine)
    )
    assert found.calm == [False]
    assert len(found.ratios[0]) >= LEAST_ROUNDS  # of all there are
    assert machine.now < 1.5  # calm that never came is not waited for


def test_calm_that_comes_late_is_waited_for():
    machine = SharedMachine(busy=(0.0, 1.5), cold=1e-3)
    sessions = [FakeSession(machine, 5e-3), FakeSession(machine, 1e-3)]
    machine.busy = (0.15, 1.5)  # there was one calm round before
    found = paired_rounds(sessions[0], sessions[1:], seconds=1.0, clocks=counted(machine))
    assert found.calm == [True]
    assert found.ratios[0] == pytest.approx([0.2] * len(found.ratios[0]), rel=1e-6)
    assert found.reference_s == pytest.approx([5e-3] * len(found.reference_s))
    assert len(found.ratios[0]) >= LEAST_CALM_ROUNDS
    assert machine.now <= PATIENCE + 0.5


def test_without_a_count_the_kernels_tell():
    """The first rounds are beside another process: the kernels are twice as slow then."""
    machine = SharedMachine(busy=(0.0, 0.5), cold=1e-3)
    sessions = [FakeSession(machine, 5e-3), FakeSession(machine, 1e-3)]
    found = paired_rounds(
        sessions[0],
        sessions[1:],
        seconds=1.5,
        clocks=Clocks(machine.clock),
        kernels=lambda: 2.0 if 0.1 < machine.now < 0.5 else 1.0,
    )
    assert found.calm == [True]
    assert statistics.median(found.ratios[0]) == pytest.approx(0.2, rel=1e-6)


def test_the_system_tells_of_switches_and_waiting():
    switches = switch_counter(of_thread=True)
    if switches is None:
        pytest.skip("DID NOT RUN: this system counts no switches of a thread")
    before, waited = switches.count(), waited_s()
    assert 0 < switches.cost_s < 1e-4
    sum(range(100_000))
    assert switches.count() >= before
    assert waited_s() >= waited >= 0
