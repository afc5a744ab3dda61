"""A damaged file of a run is named, with what is wrong in it, and never a traceback."""

import pytest

from lana.errors import UserError
from lana.pool.distillation import read_results
from lana.pool.scoring import read_scores
from lana.selection.measurement_log import LatencyLog, LossLog

READERS = {
    "distilled.csv": lambda path: read_results(path.parent),
    "scores.csv": read_scores,
    "losses.csv": LossLog.read,
    "measured_students.csv": LatencyLog.read,
}
HEADERS = {
    "distilled.csv": b"layer,operation,start_error,end_error,peak_lr,restarts,dropped",
    "scores.csv": b"layer,operation,score,standard_error,task_loss,images",
    "losses.csv": b"loop,loss,selection",
    "measured_students.csv": b"loop,ratio,ratios,selection",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"other,columns\n1,2\n", b'"', "text", "wide"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    count = HEADERS[name].count(b",") + 1
    lines = {"text": [b"text"] * count, "wide": [b"1"] * (2 * count)}
    if isinstance(content, str):
        content = HEADERS[name] + b"\n" + b",".join(lines[content]) + b"\n"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged \(.*Delete it and repeat"):
        READERS[name](tmp_path / name)
