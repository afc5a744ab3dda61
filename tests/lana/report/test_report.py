"""The report: its data are those of the run, and a real browser shows it without an error."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
from typing import ClassVar

import pytest
from click.testing import CliRunner
from made_summary import make_summary

from lana.cli import main
from lana.models.selection import Selection
from lana.report import gather, write_report
from lana.report.data import _frontier
from lana.report.expected_accuracy import fit_accuracy
from lana.report.page import render

BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
HEADLESS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--virtual-time-budget=5000",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The files of a finished run, made by hand: three layers of three operations, a span, one student."""
    from lana.common.files import write_json, write_text
    from lana.config.recipe import Recipe
    from lana.networks.layers import Layer
    from lana.pool.candidates import Candidate, write_candidates

    folder = tmp_path_factory.mktemp("report") / "run"
    pool = folder / "pool"
    recipe = Recipe(model="digits-resnet", data="digits")
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    write_json(folder / "stages.json", {"score": {"fingerprint": "x", "seconds": 1.0}})
    write_json(
        pool / "teacher.json", {"metric": 0.9, "examples": 100, "teacher_ms": 3.5, "runtime_versions": {"onnx": "1"}}
    )
    candidates, scores = [], ["layer,operation,score,standard_error,task_loss,images"]
    for name in ("<!--</script>one", "two", "three"):  # a name that would end the data, were it not escaped
        layer = Layer(name=name, input_shape=(4, 8, 8), output_shape=(4, 8, 8), layout="nchw", macs=1, members=(name,))
        for operation, ms, loss in (("teacher", 1.0, 0.0), ("half", 0.5, 0.1), ("identity", 0.1, 0.7)):
            candidates.append(
                Candidate(
                    layer=layer, operation=operation, family=operation, key=operation, parameters=1, macs=1,
                    operators=1, activations=1, latency_ms=ms, cold_ms=ms, overhead_ms=0.0,
                )
            )  # fmt: skip
            scores.append(f"{name},{operation},{loss},0.01,0.0,100")
    span = dataclasses.replace(layer, name="two+three", members=("two", "three"))
    candidates.append(dataclasses.replace(candidates[-2], layer=span, operation="merged", latency_ms=0.6))
    scores.append("two+three,merged,0.05,0.01,0.0,100")
    write_candidates(pool / "candidates.csv", candidates)
    write_text(pool / "scores.csv", "\n".join(scores) + "\n")
    summary = make_summary(
        test_examples=360,
        versions={"lana": "0"},
        budget_ms=1.25,
        predicted_ms=2.1,
        measured_ms=2.11,
        selection={"two": "half", "three": "half"},
        seconds={"score": 1.0, "select": 2.5, "finetune": 40.0},
        preprocessing={"image_size": 8, "mean": (0.5,) * 3, "std": (0.25,) * 3, "source": "given"},
        classes=("cat", "<dog>"),
    )
    write_json(folder / "students" / "0.5x" / "summary.json", dataclasses.asdict(summary))
    curve = "epoch,train_loss,validation_metric\n0,nan,0.9\n1,inf,0.95\n"
    write_text(folder / "students" / "0.5x" / "training.csv", curve)
    write_json(folder / "students" / "elsewhere" / "devices.json", {})
    ranked = [{"expected": 0.1, "measured": measured, "budget": "0.5x"} for measured in (0.2, float("nan"))]
    write_json(pool / "ranking.json", {"bands": [{"budget": "0.5x", "tau": {"corrected": 0.9}}], "students": ranked})
    return folder


def test_the_data_are_those_of_the_run(run):
    data = gather(run)
    assert data["teacher_ms"] == 3.5
    assert [student["student"] for student in data["students"]] == ["0.5x"]
    assert len(data["layers"]) == 3
    points = data["frontier"]
    assert points[0]["ms"] < points[-1]["ms"]
    assert points[0]["loss"] > points[-1]["loss"] == 0
    assert set(points[0]["selection"].values()) == {"identity"}
    losses = [point["loss"] for point in points]
    assert losses == sorted(losses, reverse=True)
    spans = [point for point in points if "two+three" in point["selection"]]
    assert spans
    assert all(point["covered"] == dict.fromkeys(("two", "three"), "merged for two+three") for point in spans)


def test_the_expected_accuracy_is_that_of_the_delivered_student_at_its_loss(run):
    data = gather(run)
    fit = data["expected_accuracy"]
    assert fit["students"] == 1
    assert fit["teacher"] * math.exp(-fit["decay"] * 0.2) == pytest.approx(0.85)  # two halves lose 0.1 each
    for point in data["frontier"]:
        assert point["accuracy"] == pytest.approx(0.9 * math.exp(-fit["decay"] * point["loss"]))


def test_a_frontier_never_rises():
    """Losses corrected around each latency may rise with it: such points are left out."""

    class Model:
        teacher_ms = 5.0
        losses: ClassVar = {1: 0.9, 2: 0.4, 3: 0.6, 4: 0.3, 5: -0.01}

        def fastest(self):
            return Selection({"a": "1"})

        def solve(self, budget_ms):
            return Selection({"a": str(int(budget_ms))})

        def predicted_ms(self, selection):
            return float(selection["a"])

        def expected_loss(self, selection):
            return self.losses[int(selection["a"])]

        def covering(self, selection):
            return {}

    points = _frontier(Model(), None)
    assert [(point["ms"], point["loss"]) for point in points] == [(1, 0.9), (2, 0.4), (4, 0.3), (5, 0.0)]


def test_the_fit_needs_shares_and_a_loss():
    assert fit_accuracy([(0.1, 31.0, 33.0), (0.0, 0.9, 0.9), (math.inf, 0.1, 0.9)]) is None
    exact = [(loss, 0.9 * math.exp(-0.7 * loss), 0.9) for loss in (0.1, 0.3, 0.8)]
    assert fit_accuracy(exact).decay == pytest.approx(0.7)
    assert fit_accuracy(exact).error == pytest.approx(0.0, abs=1e-9)
    assert fit_accuracy([(0.1, 0.95, 0.9)]).decay == 0.0


def test_the_page_holds_itself(run):
    page = write_report(run).read_text()
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    assert page.count("</script>") == 2
    content = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert json.loads(content[1])["layers"][0]["name"] == "<!--</script>one"


def shown(path, tmp_path, script=""):
    """The page's content after its scripts ran, and what the console said."""
    return dumped(with_script(path, tmp_path, script), tmp_path)


def with_script(path, tmp_path, script):
    page = tmp_path / "page.html"
    page.write_text(path.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return page


def dumped(page, tmp_path):
    command = [
        BROWSER, *HEADLESS, f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr", "--dump-dom",
        f"file://{page}",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="DID NOT RUN: no Chromium on this machine")
def test_a_browser_shows_it_and_the_slider_moves_the_selection(run, tmp_path):
    page, console = shown(write_report(run), tmp_path)
    assert console == []
    assert page.count("<circle") > 5
    command = re.search(r'<pre id="command">(.*?)</pre>', page)[1]
    assert command.startswith("lana select ")
    assert 2.0 <= float(re.search(r'id="point"[^>]*>([\d.]+) ms', page)[1]) <= 2.2  # the delivered student's
    assert "expected accuracy 8" in page
    assert "Images of 8 pixels, RGB, mean 0.5 0.5 0.5, std 0.25 0.25 0.25" in page
    assert "2 classes: cat, &lt;dog&gt;." in page
    assert "<td>finetune</td><td></td><td>40</td>" in page
    assert "<td>all</td><td>1.0</td><td>43</td>" in page
    move = (
        "const s = document.getElementById('budget'); s.value = 0; s.dispatchEvent(new Event('input'));"
        "document.querySelector('tr[data-layer=two]').click();"
    )
    moved, console = shown(run / "report.html", tmp_path, move)
    assert console == []
    after = re.search(r'<pre id="command">(.*?)</pre>', moved)[1]
    assert after != command
    assert "--pin two=identity" in after
    assert moved.count("<td>identity") == 3
    assert "Not shown: 1 chosen by tables of other devices" in moved
    assert "accuracy (360 test examples)" in moved


@pytest.mark.skipif(BROWSER is None, reason="DID NOT RUN: no Chromium on this machine")
def test_layers_of_a_span_are_shown_as_such_and_cannot_be_pinned(run, tmp_path):
    at = next(i for i, point in enumerate(gather(run)["frontier"]) if "two+three" in point["selection"])
    move = (
        f"const s = document.getElementById('budget'); s.value = {at}; s.dispatchEvent(new Event('input'));"
        "document.querySelector('tr[data-layer=two]').click();"
    )
    page, console = shown(write_report(run), tmp_path, move)
    assert console == []
    assert page.count("<td>merged for two+three</td>") == 2
    assert "--pin" not in re.search(r'<pre id="command">(.*?)</pre>', page)[1]


@pytest.mark.skipif(BROWSER is None, reason="DID NOT RUN: no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_lies_beside_the_page(run, tmp_path, width):
    measure = (
        "const root = document.documentElement, table = document.getElementById('students').parentElement;"
        "parent.postMessage(['widths', root.scrollWidth, root.clientWidth, table.scrollWidth, table.clientWidth]"
        ".join(' '), '*')"
    )
    with_script(write_report(run), tmp_path, measure)
    frame = tmp_path / "frame.html"  # a window of a browser has a least width, a frame has none
    frame.write_text(
        "<body><script>onmessage = (event) => document.body.append(event.data)</script>"
        f"<iframe src='page.html' width='{width}' height='900' style='border: 0'></iframe></body>"
    )
    figures = re.search(r"widths (\d+) (\d+) (\d+) (\d+)", dumped(frame, tmp_path)[0]).groups()
    needed, there, table, room = map(int, figures)
    assert needed == there
    assert table <= room
    assert width - 30 < there <= width  # beside a scroll bar


def test_the_command_prints_writes_or_does_both(run, tmp_path):
    def report(*options):
        result = CliRunner().invoke(main, ["report", str(run), *options])
        assert result.exit_code == 0, result.output
        return result.output

    page = tmp_path / "page.html"
    assert json.loads(report("--json", "--html", str(page)))[0]["student"] == "0.5x"
    assert "Students" in page.read_text()
    page.unlink()
    assert "0.5x" in (shown := report("--html", str(page)))
    assert str(page) in "".join(shown.split())
    assert page.exists()


def test_a_run_without_a_student_has_no_report(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: digits-resnet\ndata: digits\n")
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "has no finished student" in result.output


def test_numbers_that_are_none_are_written_so():
    page = render({"model": "m", "value": float("nan"), "inner": [float("inf")]})
    assert '"value": null, "inner": [null]' in page


def test_static_plots_are_drawn(run):
    pytest.importorskip("matplotlib", reason="DID NOT RUN: matplotlib is not installed")
    from lana.report.plots import write_plots

    svg, png = write_plots(run)
    assert "<svg" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
