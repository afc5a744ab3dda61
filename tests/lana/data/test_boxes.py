"""Images with boxes: all readers give the same boxes, placed where the fitted image has its objects."""

import numpy as np
import pytest
import torch
from boxed_pictures import boxed_teacher, scenes, write_coco, write_parquet, write_yolo

from lana.data.boxes import Annotation, padded, placed
from lana.data.images import to_pixels
from lana.data.loading import load_data
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing

TEACHER = boxed_teacher(fit="stretch")


def write(kind, root, made):
    {"yolo": write_yolo, "coco": write_coco, "parquet": lambda root, made: write_parquet(root / "all.parquet", made)}[
        kind
    ](root, made)
    return f"parquet:{root}/all.parquet" if kind == "parquet" else f"folder:{root}"


@pytest.mark.parametrize("kind", ["yolo", "coco", "parquet"])
def test_every_reader_gives_the_boxes_of_the_pictures(kind, tmp_path):
    made = scenes(20)
    data = load_data(write(kind, tmp_path, made), TEACHER, box_classes=2)
    seen = 0
    for split in (data.train, data.validation, data.test):
        assert split.labelled
        for index, labels in zip(split.indices, split.read(split.indices)[1], strict=True):
            _, boxes, kinds = made[index]
            real = labels[labels[:, 0] >= 0]
            seen += len(real)
            assert real[:, 0].tolist() == kinds
            assert real[:, 5].tolist() == [0] * len(kinds)
            sides = np.array([32 / 48, 32 / 40, 32 / 48, 32 / 40])
            assert np.allclose(real[:, 1:5], np.array(boxes).reshape(-1, 4) * sides, atol=1e-4)
    assert seen == sum(len(boxes) for _, boxes, _ in made)


@pytest.mark.parametrize("size", [(48, 40), (30, 60), (32, 32)])
@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_a_box_lies_where_its_object_is(fit, size):
    preprocessing = Preprocessing(image_size=40, image_width=64, mean=(0.5,) * 3, std=(0.25,) * 3, fit=fit, fill=128)
    for picture, boxes, kinds in scenes(6, seed=3, size=size):
        pixels = to_pixels(picture, preprocessing)[0].float()
        assert pixels.shape == (40, 64)
        annotation = Annotation.of(np.array(boxes).reshape(-1, 4) / np.tile(size, 2), kinds)
        labels = placed(annotation, size, preprocessing)
        object_ = (pixels - 128).abs() > 53
        if fit != "crop":  # which may leave too little of it
            assert len(labels) == len(boxes) == int(object_.any())
        if len(labels):
            rows, columns = torch.where(object_)
            shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.allclose(labels[0, 1:5], shown, atol=1.01)


def test_bgr_is_rgb_the_other_way_round():
    picture = scenes(1)[0][0]
    picture.putpixel((0, 0), (255, 0, 0))
    options = {"image_size": 40, "image_width": 48, "mean": (0.5,) * 3, "std": (0.25,) * 3, "fit": "stretch"}
    rgb, bgr = (to_pixels(picture, Preprocessing(**options, channel_order=order)) for order in ("rgb", "bgr"))
    assert rgb[:, 0, 0].tolist() == [255, 0, 0]
    assert torch.equal(rgb, bgr.flip(0))


def test_rows_of_any_length_are_padded_by_no_class():
    rows = [np.ones((2, 6), np.float32), np.zeros((0, 6), np.float32), np.ones((5, 6), np.float32)]
    labels = padded(rows)
    assert labels.shape == (3, 5, 6)
    assert (labels[:, :, 0] >= 0).sum(1).tolist() == [2, 0, 5]


def test_images_alone_are_found_at_any_depth(tmp_path):
    for number, (picture, *_) in enumerate(scenes(10)):
        folder = tmp_path / "deep" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    data = load_data(f"folder:{tmp_path}", TEACHER, box_classes=2)
    assert len(data.train) + len(data.validation) + len(data.test) == 10
    assert not data.test.labelled
    assert data.test.read(data.test.indices)[1].shape == (2, 0, 6)


def test_a_yaml_file_names_the_parts(tmp_path):
    for part, seed in (("train", 0), ("val", 1)):
        write_yolo(tmp_path, scenes(10, seed=seed), part)
    (tmp_path / "data.yaml").write_text(
        "path: /elsewhere\ntrain: images/train\nval: images/val\nnames: {0: dark, 1: bright}\n"
    )
    data = load_data(f"folder:{tmp_path}", TEACHER, box_classes=2)
    assert data.classes == ("dark", "bright")
    assert (len(data.test), len(data.train) + len(data.validation)) == (10, 10)
    with pytest.raises(UserError, match=r"data\.yaml has 2 classes, the network 80"):
        load_data(f"folder:{tmp_path}", TEACHER, box_classes=80)


def test_categories_count_in_order_or_by_their_numbers(tmp_path):
    write_coco(tmp_path, scenes(10))
    for classes, expected in ((2, {0, 1}), (91, {3, 7})):
        data = load_data(f"folder:{tmp_path}", TEACHER, box_classes=classes)
        assert set(data.train.labels[:, :, 0].flatten()) - {-1} == expected
    with pytest.raises(UserError, match="has 2 categories, the network 1 classes"):
        load_data(f"folder:{tmp_path}", TEACHER, box_classes=1)


def test_a_photograph_without_a_label_file_is_counted(tmp_path, caplog):
    write_yolo(tmp_path, scenes(10))
    for number in (2, 4):
        (tmp_path / "labels" / f"{number:03}.txt").unlink()
    with caplog.at_level("WARNING"):
        load_data(f"folder:{tmp_path}", TEACHER, box_classes=2)
    assert "2 images of 10" in caplog.text
    assert "without a label file" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "5 0.5 0.5 0.2 0.2",
            r"1 image \(.*003\.png \(class 5\)\) has boxes of classes that the network lacks: it has 2",
        ),
        ("0 0.9 0.5 0.6 0.2", r"003\.png \(0\.4 to 1\.2\)\) has boxes outside of the image"),
        ("0 120 80 50 50", "Expected shares of the image's sides, 0 to 1"),
        ("0 0.5 0.5 -0.2 0.2", "has boxes that are none"),
        ("cat 0.5 0.5 0.2 0.2", r"003\.txt, line 1: 'cat 0\.5.*Expected a class and a box"),
        ("0 0.5 0.5", "Expected a class and a box"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, line, message):
    write_yolo(tmp_path, scenes(10))
    (tmp_path / "labels" / "003.txt").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        load_data(f"folder:{tmp_path}", TEACHER, box_classes=2)


def test_an_empty_set_and_other_kinds_of_data_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        load_data(f"folder:{tmp_path}", TEACHER, box_classes=2)
    with pytest.raises(UserError, match="holds no boxes that --task detection reads"):
        load_data("digits", TEACHER, box_classes=2)
    (tmp_path / "instances_train.json").write_text('{"images": [{"id": 1}], "categories": []}')
    with pytest.raises(UserError, match=r"no COCO json that can be read \(KeyError"):
        load_data(f"folder:{tmp_path}", TEACHER, box_classes=2)
