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


ROWS = {
    "losses.csv": b'1 of 2,first,%s,"{""a"": ""half""}"',
    "measured_students.csv": b'1 of 2,first,0.5,%s,"{""a"": ""half""}"',
}
FIGURES = {"losses.csv": [b"nan", b"-0.5"], "measured_students.csv": [b"[0.0]", b"[-0.5]", b"[NaN]", b"[]"]}


@pytest.mark.parametrize(("name", "figure"), [(name, figure) for name in FIGURES for figure in FIGURES[name]])
def test_figures_that_cannot_be_are_refused(tmp_path, name, figure):
    (tmp_path / name).write_bytes(b"row," + HEADERS[name] + b"\n" + ROWS[name].replace(b"1 of 2", b"1 of 1") % figure)
    with pytest.raises(UserError, match=rf"{name} is damaged \(.*expected .*Delete it and repeat"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_a_log_lost_is_told(tmp_path, name):
    figure = b"0.5" if name == "losses.csv" else b"[0.5]"
    (tmp_path / name).write_bytes(b"row," + HEADERS[name] + b"\n" + ROWS[name] % figure + b"\n")
    with pytest.raises(UserError, match=rf"{name} lacks 1 of its 2 rows \(no. 2\).* Restore the file .*, or delete it"):
        READERS[name](tmp_path / name)
