import dataclasses

import numpy as np
import pytest
import torch
from pictures import fill, picture_teacher

from lana.data.loading import load_data
from lana.errors import UserError
from lana.evaluation.checks import check_labels, tell_far_below
from lana.evaluation.metrics import Evaluation
from lana.evaluation.task import Classification


@pytest.fixture
def teacher():
    return picture_teacher()


def test_labels_that_are_no_whole_numbers_are_none_of_classes(tmp_path, teacher):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((30, 8, 8, 3), np.uint8), y_train=np.arange(30) % 3 + 0.5)
    data = load_data(f"npz:{tmp_path}/a.npz", teacher)
    with pytest.raises(UserError, match=r"labels are of type torch\.float64"):
        check_labels(teacher, data, Classification())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y_train": np.eye(3)[np.arange(30) % 3]}, r"shape \(3,\) an example\. Expected the number of a class"),
        ({"x_train": np.full((30, 3, 8, 8), np.nan)}, "no finite numbers"),
        ({f"data{n}": np.zeros(1) for n in range(9)} | {"x_train": None}, r"data0, .*data5 …; expected x_train"),
    ],
)
def test_arrays_that_nothing_can_be_learnt_from_are_told(tmp_path, teacher, arrays, message):
    usual = {"x_train": np.zeros((30, 3, 8, 8)), "y_train": np.arange(30) % 3}
    np.savez(
        tmp_path / "a.npz", **{name: array for name, array in (arrays | usual | arrays).items() if array is not None}
    )
    with pytest.raises(UserError, match=message):
        check_labels(teacher, load_data(f"npz:{tmp_path}/a.npz", teacher), Classification())


def test_outputs_that_hold_no_classes_are_told(tmp_path, teacher):
    fill(tmp_path)
    teacher = dataclasses.replace(teacher, module=torch.nn.Sequential(teacher.module, torch.nn.Flatten(0)))
    with pytest.raises(UserError, match=r"outputs of shape \(3,\)\. Expected \(N, classes\)"):
        check_labels(teacher, load_data(f"folder:{tmp_path}", teacher), Classification())


class Scores(Classification):
    """A task of one's own under the usual name: several labels an example."""

    def loss(self, output, labels):
        return torch.nn.functional.binary_cross_entropy_with_logits(output, labels, reduction="none").mean(1)

    def metric(self, output, labels):
        return ((output > 0) == (labels > 0.5)).float().mean(1)


class OneNumber(Scores):
    def distance(self, output, teacher_output):
        return torch.nn.functional.mse_loss(output, teacher_output)


def test_a_task_of_ones_own_is_judged_by_itself_and_as_a_whole(tmp_path, teacher):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(20, 3, 8, 8)).astype(np.float32), rng.integers(0, 2, (20, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x_train=inputs, y_train=labels)
    data = load_data(f"npz:{tmp_path}/a.npz", teacher)
    check_labels(teacher, data, Scores())
    with pytest.raises(UserError, match=r"distance gives \(\) for 2 examples, expected one each"):
        check_labels(teacher, data, OneNumber())


def told(caplog, teacher, folder):
    caplog.clear()
    check_labels(teacher, load_data(f"folder:{folder}", teacher), Classification())
    return caplog.text


def test_classes_that_hardly_can_be_learned_are_told(tmp_path, teacher, caplog):
    fill(tmp_path / "all")
    assert told(caplog, teacher, tmp_path / "all") == ""
    fill(tmp_path / "two", classes=("cat", "dog"))
    assert "The model has 3 classes, the data 2: outputs from 2 on are never right" in told(
        caplog, teacher, tmp_path / "two"
    )
    for part, count in (("train", 10), ("test", 2)):
        fill(tmp_path / "parts" / part, count=count)
    for number in range(1, 10):
        (tmp_path / "parts" / "train" / "dog" / f"{number}.png").unlink()
    for image in (tmp_path / "parts" / "train" / "eel").iterdir():
        image.unlink()
    text = told(caplog, teacher, tmp_path / "parts")
    assert "1 class label of 2 have one training image only: dog." in text
    assert "1 class label of the test part have no training image: eel." in text


def test_class_folders_of_the_test_part_alone_are_counted(tmp_path, teacher):
    names = [f"class{number:03}" for number in range(500)]
    fill(tmp_path / "train", classes=names[:3], count=1)
    for name in names:
        (tmp_path / "test" / name).mkdir(parents=True)
    message = r"has 497 class folders that the training part lacks: class003.* …\. Move"
    with pytest.raises(UserError, match=message) as one:
        load_data(f"folder:{tmp_path}", teacher)
    assert len(str(one.value)) < 400


@pytest.mark.parametrize(("test", "validation", "warned"), [(0.5, 0.9, True), (0.8, 0.9, False), (31.0, 50.0, False)])
def test_a_teacher_far_below_its_validation_is_told(caplog, test, validation, warned):
    ours, theirs = (Evaluation(metric=metric, loss=0.0, examples=400) for metric in (test, validation))
    tell_far_below(ours, theirs, "accuracy")
    assert ("50.00% on the test part and 90.00%" in caplog.text) == warned
