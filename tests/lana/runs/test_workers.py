"""A run of a detector in another process: its boxes, its decoder and its last predictors are those of the run."""

import pickle

from boxed_pictures import NETWORK, scenes, write_yolo

import lana
from lana.evaluation.detection import Detection
from lana.runs.context import prepare
from lana.runs.run import Run
from lana.runs.workers import LoadedRun


def test_a_worker_loads_a_detector_as_the_run_does(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    write_yolo(tmp_path / "yolo", scenes(30))
    recipe = lana.Recipe(
        model=f"{tmp_path}/net.py:build", data=f"folder:{tmp_path}/yolo", task="detection", decode="yolo-plain",
        budget="0.8x", epochs=0.0,
    )  # fmt: skip
    with Run.open(tmp_path / "run", recipe) as run:
        context = prepare(run, recipe)
        there = pickle.loads(pickle.dumps(LoadedRun(context))).context
    assert isinstance(there.task, Detection)
    assert there.task.decoder.name == "yolo-plain"
    assert there.scan == context.scan
    assert (there.data.test.labels == context.data.test.labels).all()
