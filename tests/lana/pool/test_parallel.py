"""The same pool, bit for bit, by whichever engine."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lana.config.recipe import Recipe
from lana.engines.processes import ProcessEngine
from lana.errors import LanaError
from lana.pool import distillation
from lana.pool.parallel import distill_in_units, score_in_units
from lana.runs.context import prepare
from lana.runs.run import Run

OPTIONS = {
    "model": "digits-resnet",
    "data": "digits",
    "layers": "blocks.[0-2]",
    "max_span": 1,
    "budget": "0.5x",
    "distill_epochs": 1.0,
    "distill_images": 64,
    "distill_batch": 16,
    "score_images": 64,
    "unit_operations": 2,
}


def made(folder, **engine):
    """The files of a pool of three layers, distilled and scored."""
    recipe = Recipe(**{**OPTIONS, **engine})
    with Run.open(folder, recipe) as run:
        context = prepare(run, recipe)
        pool = [(layer, name) for layer in context.scan.layers for name in ("linear_k1", "pruned_w0.5")]
        distill_in_units(context, pool, [], run.pool / "operations")
        score_in_units(context, [*pool, (pool[0][0], "teacher")], run.pool / "operations", run.scores)
    return {path.relative_to(folder): path.read_bytes() for path in (folder / "pool").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return made(tmp_path_factory.mktemp("serial"), engine="local")


def test_units_leave_weights_results_and_scores(serial):
    assert len(serial) == 6 + 2
    assert sorted({path.suffix for path in serial}) == [".csv", ".safetensors"]


def test_two_processes_make_the_same_pool_bit_for_bit(serial, tmp_path, monkeypatch):
    forked = ProcessEngine(processes=2, start_method="fork")  # sooner there than those of users
    monkeypatch.setattr("lana.pool.parallel.create_engine", lambda *args, **kwargs: forked)
    assert made(tmp_path / "run") == serial


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that load all on a busy machine
def test_processes_that_load_the_run_themselves_make_it_too(serial, tmp_path):
    assert made(tmp_path / "run", engine="processes", workers=2) == serial


def test_a_unit_is_trained_alike_in_any_company(serial, tmp_path):
    whole = made(tmp_path / "run", engine="local", unit_operations=100)
    assert whole == serial


def test_what_failed_is_named_and_the_same_call_does_only_that(serial, tmp_path, monkeypatch):
    train, begun = distillation.distill_group, []

    def fails_at_the_second(teacher, group, *args, **kwargs):
        begun.append(group[0][0].name)
        if len(begun) == 2:
            raise RuntimeError("broken")
        return train(teacher, group, *args, **kwargs)

    monkeypatch.setattr(distillation, "distill_group", fails_at_the_second)
    with pytest.raises(LanaError, match=r"1 unit of 3 failed \(distilling 6 operations\):\nblocks.1-2-.*broken"):
        made(tmp_path / "run", engine="local")
    assert made(tmp_path / "run", engine="local") == serial
    assert begun == ["blocks.0", "blocks.1", "blocks.2", "blocks.1"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that load all on a busy machine
def test_a_pool_whose_starter_and_a_worker_are_killed_ends_as_the_serial_one(serial, tmp_path):
    """The starter goes in the middle; another engine does what it left."""
    folder = tmp_path / "run"
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_parallel; "
    begin = "from pathlib import Path; test_parallel.made(Path(sys.argv[1]), engine='processes', workers=2)"
    with subprocess.Popen([sys.executable, "-c", script + begin, str(folder)], stderr=subprocess.DEVNULL) as starter:
        while starter.poll() is None and not list(folder.glob("units/*/*.running")):
            time.sleep(0.05)
        record = json.loads(next(folder.glob("units/*/*.running")).read_text())
        os.kill(record["process"], signal.SIGKILL)
        while starter.poll() is None and not list(folder.glob("units/*/*.done")):
            time.sleep(0.05)
        starter.kill()
    assert made(folder, engine="local") == serial


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that load all on a busy machine
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="DID NOT RUN: ray is not installed")
def test_three_ray_nodes_of_which_one_is_killed_make_the_same_pool(serial, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

        def kill_in_the_middle():
            while len(list(tmp_path.glob("run/units/distill/*.running"))) < 3:
                time.sleep(0.05)
            cluster.remove_node(nodes[0], allow_graceful=False)

        killer = threading.Thread(target=kill_in_the_middle, daemon=True)
        killer.start()
        assert made(tmp_path / "run", engine=f"ray://{cluster.address}") == serial
        killer.join(timeout=60)
        assert not killer.is_alive()
    finally:
        cluster.shutdown()
