"""Mean average precision: as pycocotools computes it, and by hand."""

import contextlib
import io

import numpy as np
import pytest

from lana.detection.average_precision import mean_average_precision, record


def scene(random, index):
    """Boxes of an image and detections near them: crowds, empty images, wrong classes, equal scores among them."""
    count = 0 if index % 10 == 0 else random.integers(1, 8)
    corner, size = random.uniform(0, 300, (count, 2)), random.uniform(5, 120, (count, 2))
    true = np.concatenate((corner, corner + size), 1)
    kinds, crowd = random.integers(0, 5, count), random.random(count) < 0.15
    copies = np.repeat(np.arange(count), random.integers(0, 5, count))
    moved = true[copies] + random.normal(0, 8, (len(copies), 4))
    noise = random.uniform(0, 300, (random.integers(0, 6), 2))
    boxes = np.concatenate((moved, np.concatenate((noise, noise + random.uniform(5, 100, noise.shape)), 1)))
    boxes = np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])), 1)
    right = np.concatenate((kinds[copies], random.integers(0, 5, len(noise)))).astype(int)
    classes = np.where(random.random(len(boxes)) < 0.9, right, random.integers(0, 5, len(boxes)))
    scores = np.round(random.random(len(boxes)), 2)
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order], classes[order], true, kinds, crowd


def by_pycocotools(scenes):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    def sides(box):
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    truth, found = [], []
    for image, (boxes, scores, classes, true, kinds, crowd) in enumerate(scenes):
        for box, kind, one in zip(true, kinds, crowd, strict=True):
            area = float((box[2:] - box[:2]).prod())
            truth.append({"id": len(truth) + 1, "image_id": image, "category_id": int(kind), "bbox": sides(box),
                          "area": area, "iscrowd": int(one)})  # fmt: skip
        found += [
            {"image_id": image, "category_id": int(kind), "bbox": sides(box), "score": float(score)}
            for box, score, kind in zip(boxes, scores, classes, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        whole = coco.COCO()
        whole.dataset = {
            "images": [{"id": image} for image in range(len(scenes))],
            "categories": [{"id": kind} for kind in range(5)],
            "annotations": truth,
        }
        whole.createIndex()
        judged = COCOeval(whole, whole.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged.stats[:2]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_that_of_pycocotools(seed):
    random = np.random.default_rng(seed)
    scenes = [scene(random, index) for index in range(50)]
    averages = mean_average_precision([record(*one) for one in scenes])
    expected = by_pycocotools(scenes)
    assert averages.mean() == pytest.approx(expected[0], abs=1e-6)
    assert averages[0] == pytest.approx(expected[1], abs=1e-6)
    assert averages.mean() > 0.02


BOX = np.array([[0.0, 0, 10, 10]])
NONE = np.zeros((0, 4))


def made(boxes, scores, true, crowd=None):
    crowd = np.zeros(len(true), bool) if crowd is None else np.array(crowd)
    zeros = np.zeros(len(true), int)
    return record(np.array(boxes), np.array(scores), np.zeros(len(boxes), int), np.array(true), zeros, crowd)


def test_a_box_of_half_the_width_counts_up_to_an_overlap_of_half():
    averages = mean_average_precision([made([[0.0, 0, 5, 10]], [0.9], BOX)])
    assert averages.tolist() == pytest.approx([1.0] + [0.0] * 9)


def test_a_false_one_before_the_right_one_halves_the_precision():
    averages = mean_average_precision([made([[50.0, 50, 60, 60], *BOX], [0.9, 0.8], BOX)])
    assert averages.tolist() == pytest.approx([0.5] * 10)


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong():
    crowded = made(
        [[0.0, 0, 5, 5], [20.0, 20, 30, 30]], [0.9, 0.8], [[0.0, 0, 10, 10], [20.0, 20, 30, 30]], [True, False]
    )
    assert mean_average_precision([crowded]).tolist() == pytest.approx([1.0] * 10)


def test_an_empty_image_counts_by_its_false_detections():
    right, false = made(BOX, [0.5], BOX), made(BOX, [0.9], NONE)
    assert mean_average_precision([right, false]).tolist() == pytest.approx([0.5] * 10)
    assert np.isnan(mean_average_precision([made(NONE, [], NONE)])).all()
