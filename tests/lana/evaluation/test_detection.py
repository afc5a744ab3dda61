"""The task of detectors: its metric on labels and on the teacher's own detections, and what is refused early."""

import pytest
import torch
from boxed_pictures import NETWORK, scenes, write_parquet, write_yolo
from torch import nn

import lana
from lana.config.options import FineTuning
from lana.data.loading import load_data
from lana.errors import UserError
from lana.evaluation.checks import check_teacher
from lana.evaluation.detection import Detection, check_options
from lana.evaluation.examples import load_examples, make_task
from lana.evaluation.metrics import evaluate_module
from lana.training.distributed import SingleProcess
from lana.training.finetuning import TrainingSetup, finetune


def train(network, labels, inputs, steps=150):
    """The head's own cell of each object learns its class and distances; all others that there is none."""
    targets, wanted = torch.zeros(len(inputs), 2, 8, 8), torch.zeros(len(inputs), 4, 8, 8)
    inside = torch.zeros(len(inputs), 8, 8, dtype=torch.bool)
    for image, boxes in enumerate(labels):
        for kind, *box, _ in boxes[boxes[:, 0] >= 0].tolist():
            a, b, c, d = (value / 4 for value in box)
            x, y = int((a + c) / 2), int((b + d) / 2)
            targets[image, int(kind), y, x], inside[image, y, x] = 1, True
            wanted[image, :, y, x] = torch.tensor([x + 0.5 - a, y + 0.5 - b, c - x - 0.5, d - y - 0.5])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(steps):
        output = network(inputs)
        loss = nn.functional.binary_cross_entropy_with_logits(output[:, 4:], targets, reduction="sum")
        loss = loss + (output[:, :4] - wanted).abs().sum(1)[inside].sum()
        optimizer.zero_grad()
        (loss / len(inputs)).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained detector with its weights, pictures with boxes in YOLO's layout, and pictures alone."""
    folder = tmp_path_factory.mktemp("detector")
    (folder / "net.py").write_text(NETWORK)
    write_yolo(folder / "yolo", scenes(120))
    write_parquet(folder / "photos.parquet", scenes(60, seed=5), labelled=False)
    teacher = lana.load_teacher(f"{folder}/net.py:build")
    data = load_data(f"folder:{folder}/yolo", teacher, box_classes=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs, labels = next(data.train.batches(len(data.train)))
        train(teacher.module.train(), labels, inputs)
    torch.save(teacher.module.state_dict(), folder / "net.pt")
    return folder


def opened(place, data, decode="yolo-plain"):
    teacher = lana.load_teacher(f"{place}/net.py:build", weights=f"{place}/net.pt")
    reference = f"folder:{place}/yolo" if data == "yolo" else f"parquet:{place}/photos.parquet"
    return teacher, *load_examples(reference, teacher, make_task("detection", teacher, decode))


def test_on_labels_it_is_the_mean_average_precision_of_the_set(place):
    teacher, task, data = opened(place, "yolo")
    found = evaluate_module(teacher.module, data.test, task, batch_size=7)
    assert task.metric_name == "mAP50-95"
    assert 0.3 < found.metric < found.others["mAP50"] <= 1
    assert found.examples == len(data.test) == len(found.records)
    check_teacher(found, teacher, data, task)
    assert evaluate_module(teacher.module, data.test, task).metric == pytest.approx(found.metric)
    with pytest.raises(UserError, match="a guess has"):
        check_teacher(
            evaluate_module(lana.load_teacher(f"{place}/net.py:build").module, data.test, task), teacher, data, task
        )


def test_without_labels_the_teachers_own_detections_count(place):
    teacher, task, data = opened(place, "photos")
    assert task.metric_name == "mAP50 against the teacher's detections"
    assert evaluate_module(teacher.module, data.test, task).metric == pytest.approx(1.0)
    assert evaluate_module(teacher.module, data.validation, task).metric == pytest.approx(1.0)
    assert evaluate_module(lana.load_teacher(f"{place}/net.py:build").module, data.test, task).metric < 0.3


def test_a_student_learns_from_the_teacher_on_photographs_alone(place, tmp_path):
    teacher, task, data = opened(place, "photos")
    student = lana.load_teacher(f"{place}/net.py:build").module
    student.load_state_dict(teacher.module.state_dict())
    with torch.no_grad():
        student.classes.weight.mul_(0.3)
        student.boxes.weight.add_(0.1 * torch.randn(4, 16, 1, 1, generator=torch.Generator().manual_seed(0)))
    before = evaluate_module(student, data.test, task).metric
    settings = FineTuning(epochs=4.0, batch_size=16, lr=3e-3, ema_epochs=0.0, mixup=0.2)
    setup = TrainingSetup(
        teacher=teacher.module, data=data, task=task, settings=settings, group=SingleProcess(), cached_outputs=None
    )
    finetune(student, setup, checkpoint=tmp_path / "training.pt")
    assert before < 0.8
    assert evaluate_module(student, data.test, task).metric > before + 0.1


def test_a_student_that_gives_no_numbers_detects_nothing(place):
    teacher, task, data = opened(place, "yolo")
    with torch.no_grad():
        teacher.module.classes.bias.fill_(float("nan"))
    assert evaluate_module(teacher.module, data.test, task).metric == 0


OWN = """
def shares(output):
    rows = output.flatten(2).transpose(1, 2)
    return rows[..., :4].sigmoid(), rows[..., 4:].sigmoid()
def logits(output):
    rows = output.flatten(2).transpose(1, 2)
    return 32 * rows[..., :4].sigmoid(), 50 * rows[..., 4:]
def nothing(output):
    rows = output.flatten(2).transpose(1, 2)
    return 32 * rows[..., :4].sigmoid(), rows[..., 4:] * float("nan")
def low(output):
    rows = output.flatten(2).transpose(1, 2)
    return 32 * rows[..., :4].sigmoid(), rows[..., 4:].sigmoid() / 10
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shares", r"they look like shares of the image\. .*Multiply them by 32 and 32"),
        ("logits", "gives scores from .* Logits need a sigmoid"),
        ("nothing", "scores are no numbers on real images"),
        ("low", r"detects nothing above a score of 0\.25 on 5 images without labels"),
    ],
)
def test_what_a_decoder_cannot_mean_is_refused(place, name, message):
    (place / "own.py").write_text(OWN)
    with pytest.raises(UserError, match=message):
        opened(place, "photos", f"{place}/own.py:{name}")


def test_options_that_need_labels_or_logits_are_refused(place):
    task = Detection(decoder=None)
    for settings, score_by, message in (
        (FineTuning(), "task", "--score-by task is the loss on labels"),
        (FineTuning(distillation=0.0), "distance", "learns from the teacher alone"),
        (FineTuning(temperature=2.0), "distance", "--temperature divides logits"),
    ):
        with pytest.raises(UserError, match=message):
            check_options(task, settings, score_by)
    teacher = lana.load_teacher(f"{place}/net.py:build")
    with pytest.raises(UserError, match="--task detection needs --decode"):
        make_task("detection", teacher)
    with pytest.raises(UserError, match="--decode is for --task detection"):
        make_task("classification", teacher, "yolo")


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("data", ["yolo", "photos"])
def test_from_end_to_end(place, data):
    reference = f"folder:{place}/yolo" if data == "yolo" else f"parquet:{place}/photos.parquet"
    recipe = lana.Recipe(
        model=f"{place}/net.py:build",
        weights=f"{place}/net.pt",
        data=reference,
        task="detection",
        decode="yolo-plain",
        budget="0.8x",
        pool="linear_k3,pruned_w0.5",
        calibrate=8,
        refine=0,
        distill_images=48,
        score_images=32,
        proposals=1,
        epochs=2.0,
    )
    summary = lana.compress(recipe, out=place / f"run-{data}", quiet=True)
    assert summary.metric == ("mAP50-95" if data == "yolo" else "mAP50 against the teacher's detections")
    assert summary.student_accuracy > 0.2
    low, high = summary.accuracy_change95
    assert low <= summary.student_accuracy - summary.teacher_accuracy <= high
    assert set(summary.other_metrics) == ({"mAP50"} if data == "yolo" else set())
    card = (place / f"run-{data}" / "students" / "0.8x" / "README.md").read_text()
    assert "stretched to 32×32" in card
    assert "suppression" in card
    assert "session.get_outputs()" in card
