import multiprocessing
import os
import signal
import time

import pytest

from lana.engines.local import LocalEngine
from lana.engines.processes import ProcessEngine


def square(number):
    return number * number


def slow_where_small(number):
    time.sleep(0.3 if number == 0 else 0)
    return number


def inverse(number):
    return 1 / number


def killed_at_two(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def a_function(number):
    return (lambda: number) if number else number


class EngineContract:
    """What every engine keeps: a subclass gives the fixture `engine`."""

    def test_every_unit_has_its_value(self, engine):
        outcomes = list(engine.map(square, range(7)))
        assert {outcome.index: outcome.value for outcome in outcomes} == {n: n * n for n in range(7)}
        assert not any(outcome.error for outcome in outcomes)

    def test_no_units_have_no_outcomes(self, engine):
        assert list(engine.map(square, [])) == []

    def test_outcomes_do_not_depend_on_the_order_of_units(self, engine):
        forth, back = ({o.value for o in engine.map(square, order)} for order in ([1, 2, 3], [3, 2, 1]))
        assert forth == back

    def test_an_error_is_data_and_loses_no_other_unit(self, engine):
        outcomes = {outcome.index: outcome for outcome in engine.map(inverse, [1, 0, 2, 4])}
        assert "ZeroDivisionError" in outcomes.pop(1).error
        assert {index: outcome.value for index, outcome in outcomes.items()} == {0: 1, 2: 0.5, 3: 0.25}

    def test_outcomes_come_before_the_last_unit_is_computed(self, engine):
        outcomes = engine.map(square, range(50))
        assert next(outcomes).error is None
        outcomes.close()


class TestLocal(EngineContract):
    @pytest.fixture
    def engine(self):
        return LocalEngine()


class TestProcesses(EngineContract):
    @pytest.fixture
    def engine(self):
        return ProcessEngine(processes=2)

    def test_a_worker_killed_is_an_error_of_its_unit(self, engine):
        outcomes = {outcome.index: outcome for outcome in engine.map(killed_at_two, range(6))}
        assert "ended with exit code -9" in outcomes.pop(2).error
        assert {index: outcome.value for index, outcome in outcomes.items()} == {0: 0, 1: 1, 3: 3, 4: 4, 5: 5}

    def test_units_that_are_ready_first_come_first(self, engine):
        assert [outcome.value for outcome in engine.map(slow_where_small, range(3))][-1] == 0

    def test_a_value_that_cannot_be_sent_is_an_error_of_its_unit(self, engine):
        outcomes = {outcome.index: outcome for outcome in engine.map(a_function, range(2))}
        assert outcomes[0].value == 0
        assert "cannot be sent" in outcomes[1].error

    def test_no_process_is_left(self, engine):
        before = set(multiprocessing.active_children())
        next(outcomes := engine.map(square, range(50)))
        outcomes.close()
        assert set(multiprocessing.active_children()) == before


@pytest.mark.slow
class TestSpawnedProcesses(EngineContract):
    @pytest.fixture
    def engine(self):
        return ProcessEngine(processes=2, start_method="spawn")
