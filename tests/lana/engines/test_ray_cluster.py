"""Ray: mistakes have one message without it; with it, a cluster of three nodes of which one is killed."""

import importlib.util
import socket
import sys
import threading
import time

import pytest
from test_engines import EngineContract, inverse, square
from test_units import UNITS, values

from lana.engines.ray_cluster import RayEngine, probe
from lana.engines.units import Unit, map_units
from lana.errors import LanaError, UserError

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="DID NOT RUN: ray is not installed")


def test_without_ray_one_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"'ray' could not be imported.*\[ray\]"):
        list(RayEngine().map(square, [1]))


@pytest.mark.parametrize("address", ["nobody", "127.0.0.1:x", "127.0.0.1:10001", ""])
def test_what_is_no_heads_address_is_named_at_once(address):
    with pytest.raises(UserError, match="engine ray"):
        probe(address)


def test_an_address_at_which_nothing_answers_is_probed_first():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]  # taken, and nobody listens
        with pytest.raises(UserError, match=f"No Ray cluster answers at 127.0.0.1:{port}"):
            list(RayEngine(address=f"127.0.0.1:{port}").map(square, [1])) if HAS_RAY else probe(f"127.0.0.1:{port}")


def slow_square(number, report):
    time.sleep(1.0)
    return number * number


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", ":".join(sys.path))
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield made
        made.shutdown()


@needs_ray
@pytest.mark.slow
class TestRay(EngineContract):
    @pytest.fixture
    def engine(self, cluster):
        return RayEngine(address=cluster.address)

    def test_a_node_killed_in_the_middle_costs_no_unit(self, cluster, engine, tmp_path):
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        units = [Unit(name=f"unit-{number}", content=number) for number in range(12)]
        threading.Timer(6.0, lambda: cluster.remove_node(nodes[0], allow_graceful=False)).start()
        found = {unit.name: value for unit, value in map_units(engine, slow_square, units, tmp_path, title="Squares")}
        assert found == {f"unit-{n}": n * n for n in range(12)}
        cluster.remove_node(nodes[1])

    def test_a_device_that_is_offline_is_an_error_of_its_unit(self, engine, tmp_path):
        board = Unit(name="board", content=3, device="board")
        with pytest.raises(UserError, match="No host of the Ray cluster has the resource 'device:board'"):
            values(engine, slow_square, tmp_path, [*UNITS[:1], board])
        assert (tmp_path / "unit-0.done").is_file()

    def test_a_unit_that_hangs_is_stopped(self, engine, tmp_path):
        with pytest.raises(LanaError, match="made no progress"):
            values(engine, sleep_long, tmp_path, UNITS[:1], stalled_s=1.0)

    def test_hosts_of_another_version_are_named(self, engine, monkeypatch):
        monkeypatch.setattr("lana.engines.ray_cluster.__version__", "99.0")
        with pytest.raises(UserError, match=r"do not fit.*lana .* there, 99.0 here"):
            list(engine.map(inverse, [1]))


def sleep_long(number, report):
    time.sleep(300)
