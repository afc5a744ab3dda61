import csv
import math

from lana.models.selection import Selection
from lana.selection.measurement_log import LatencyLog, LossLog, MeasuredLatency, pooled, repeatability
from profilers import Comparison

HALF, NONE = Selection({"a": "half"}), Selection({"a": "none", "b": "half"})


def comparison(*ratios):
    return Comparison(ratios=ratios, reference_ms=(1.0,) * len(ratios))


def test_latencies_are_written_and_read_again(tmp_path):
    log = LatencyLog.read(tmp_path / "measured_students.csv").replay("first, 1 ms")
    log.add([HALF, NONE], [comparison(0.5, 0.6, 0.700004), comparison(0.2)])
    with (tmp_path / "measured_students.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "row": "1 of 2",
        "loop": "first, 1 ms",
        "ratio": "0.6",
        "ratios": "[0.5, 0.6, 0.7]",
        "processes": "",
        "selection": '{"a": "half"}',
    }
    assert LatencyLog.read(tmp_path / "measured_students.csv").rows == log.rows


def test_a_repeated_search_recalls_its_latencies_by_batch(tmp_path):
    path = tmp_path / "measured_students.csv"
    LatencyLog.read(path).replay("first").add([HALF], [comparison(0.5)])
    second = LatencyLog.read(path).replay("second")
    second.add([NONE], [comparison(0.3)])
    second.add([NONE], [comparison(0.4)])
    again = LatencyLog.read(path).replay("second")
    assert again.get(HALF).ratios == (0.5,)
    assert again.get(NONE) is None
    assert again.recall([NONE])
    assert again.get(NONE).ratios == (0.3,)
    assert not again.recall([HALF, NONE])  # it goes another way: from here on all is measured anew
    assert not again.recall([NONE])


def test_repeatability_compares_with_the_measurement_before(tmp_path):
    log = LatencyLog(tmp_path / "measured_students.csv")
    for ratio in (0.5, 0.55):
        log.add([HALF, NONE], [comparison(ratio), comparison(0.2)])
    assert [round(difference, 6) for difference in repeatability(log.rows)] == [0.1, 0.0]
    assert [one.ratios for one in pooled(log.rows).values()] == [(0.5, 0.55), (0.2, 0.2)]


def test_losses_are_read_again_and_replayed(tmp_path):
    log = LossLog.read(tmp_path / "losses.csv").replay("first")
    log.add([Selection({"a": "half"})], [0.5])
    second = LossLog.read(tmp_path / "losses.csv").replay("second")
    second.add([Selection({"a": "none", "b": "teacher"})], [0.7])
    read = LossLog.read(tmp_path / "losses.csv")
    assert read.get(Selection({"a": "none"})) == 0.7  # the teacher's own is not a choice
    again = read.replay("second")
    assert again.get(Selection({"a": "half"})) == 0.5
    assert again.get(Selection({"a": "none"})) is None  # it did not know that when it began …
    assert again.get_any(Selection({"a": "none"})) == 0.7  # … but need not measure it again
    again.add([Selection({"a": "none"})], [0.7])
    assert len(LossLog.read(tmp_path / "losses.csv").rows) == 2


def test_a_student_without_finite_outputs_loses_most(tmp_path):
    LossLog.read(tmp_path / "losses.csv").add([Selection({"a": "half"}), Selection({"a": "none"})], [math.nan, 0.7])
    read = LossLog.read(tmp_path / "losses.csv")
    assert read.get(Selection({"a": "half"})) == math.inf
    assert read.get(Selection({"a": "none"})) == 0.7


CALM, SHARED = (0.50, 0.505, 0.495, 0.50, 0.50), (0.44, 0.45, 0.46, 0.45, 0.45)


def measured(*parts):
    """Calm ratios, and those that other work made too small."""
    ratios = [(ratio, is_calm) for ratios, is_calm in parts for ratio in ratios]
    return MeasuredLatency(
        selection=HALF, ratios=tuple(ratio for ratio, _ in ratios), calm=tuple(is_calm for _, is_calm in ratios)
    )


def test_calm_processes_alone_count_where_there_are_enough():
    alone = MeasuredLatency(selection=HALF, ratios=CALM)
    both = measured((SHARED, False), (CALM, True))
    assert (both.ratio, both.ratio_upper95) == (alone.ratio, alone.ratio_upper95)
    assert not both.disturbed


def test_the_bound_widens_to_what_was_seen_between_calm_and_disturbed():
    some = measured((SHARED, False), (CALM[:3], True))
    assert some.ratio == 0.5
    assert not some.disturbed
    assert some.ratio_upper95 >= 0.5 * (1 + 0.1)  # 0.45 for 0.50: a tenth


def test_where_calm_never_came_nothing_is_known():
    assert measured((SHARED, False)).disturbed
    assert measured((SHARED, False), (CALM[:1], True)).disturbed
    assert not measured((CALM, True)).disturbed
    assert not MeasuredLatency(selection=HALF, ratios=SHARED).disturbed  # of a log of before


def test_what_a_process_waited_is_kept(tmp_path):
    log = LatencyLog.read(tmp_path / "measured_students.csv").replay("first")
    log.add([HALF], [comparison(0.5, 0.6)])
    given = {"calm": (True, False), "waited": (0.0, 0.7), "watched": "switches"}
    log.add([HALF], [Comparison(ratios=(0.5, 0.45), reference_ms=(1.0, 1.0), **given)])
    read = LatencyLog.read(tmp_path / "measured_students.csv")
    assert read.rows == log.rows
    assert vars(read.rows[1]) == {"selection": HALF, "ratios": (0.5, 0.45), **given}
    both = read.get(HALF)
    assert both.calm == (True, True, True, False)  # what a log does not tell counts as calm
    assert both.waited == (0.0, 0.7)


def test_a_log_of_before_is_read(tmp_path):
    path = tmp_path / "measured_students.csv"
    path.write_text('loop,ratio,ratios,selection\nfirst,0.5,[0.5],"{""a"": ""half""}"\n')
    assert LatencyLog.read(path).get(HALF) == MeasuredLatency(selection=HALF, ratios=(0.5,))
