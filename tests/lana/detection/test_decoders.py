"""Ready-made decoders by formula, and what a user's function may return."""

import pytest
import torch

from lana.detection.decoders import DECODERS, make_decoder
from lana.errors import UserError

SIZE = (64, 96)  # height, width


def logit(share):
    return torch.tensor(share).logit()


def test_a_yolo_head_with_dfl_gives_the_mean_of_its_bins():
    output = [torch.zeros(1, 64 + 3, 8, 12), torch.zeros(1, 64 + 3, 4, 6)]
    output[0][0, :64, 2, 5] = torch.full((4, 16), -50.0).index_fill(1, torch.tensor([2]), 50.0).flatten()
    output[0][0, 64:, 2, 5] = torch.tensor([-9.0, logit(0.75), -9.0])
    found = make_decoder("yolo", SIZE)(output)
    assert found.boxes.shape == (1, 96 + 24, 4)
    place = 2 * 12 + 5
    # centre (5.5, 2.5) of stride 8, two strides to each side
    torch.testing.assert_close(found.boxes[0, place], torch.tensor([28.0, 4, 60, 36]))
    assert found.scores[0, place, 1] == pytest.approx(0.75)
    # equal bins: 7.5 strides of 16 around the centre (0.5, 0.5)
    torch.testing.assert_close(found.boxes[0, 96], torch.tensor([-112.0, -112, 128, 128]))
    assert found.bins.shape == (1, 120, 4, 16)


def test_a_yolo_head_without_dfl_gives_its_distances():
    output = torch.zeros(2, 4 + 3, 4, 6)
    output[1, :4, 0, 0] = torch.tensor([0.25, 0.5, 1.0, 2.0])
    for name in ("yolo", "yolo-plain"):
        found = make_decoder(name, SIZE)([output])
        torch.testing.assert_close(found.boxes[1, 0], torch.tensor([4.0, 0, 24, 40]))
        assert found.bins is None


def test_a_decoded_yolo_output_is_read_as_it_is():
    rows = torch.tensor([[[10.0, 20, 4, 8, 0.9, 0.1]]]).transpose(1, 2)
    found = make_decoder("yolo", SIZE)(rows)
    assert found.boxes.tolist() == [[[8, 16, 12, 24]]]
    assert found.scores[0, 0].tolist() == pytest.approx([0.9, 0.1])


def test_yolox():
    output = torch.zeros(1, 5 + 2, 8, 12)
    output[0, :, 3, 4] = torch.tensor([0.5, 0.25, torch.tensor(2.0).log(), 0.0, logit(0.5), logit(0.8), logit(0.1)])
    found = make_decoder("yolox", SIZE)((output,))
    torch.testing.assert_close(found.boxes[0, 3 * 12 + 4], torch.tensor([28.0, 22, 44, 30]))
    assert found.scores[0, 3 * 12 + 4].tolist() == pytest.approx([0.4, 0.05])
    decoded = make_decoder("yolox", SIZE)(torch.tensor([[[36.0, 26, 16, 8, 0.5, 0.8, 0.1]]]))
    torch.testing.assert_close(decoded.boxes[0, 0], found.boxes[0, 3 * 12 + 4])
    assert decoded.scores[0, 0].tolist() == pytest.approx([0.4, 0.05])


def test_fastestdet():
    output = torch.zeros(1, 5 + 4, 4, 6)
    output[0, 0, 1, 2], output[0, 5, 1, 2] = logit(0.5), torch.tensor(3.0).log()
    found = make_decoder("fastestdet", SIZE)(output)
    # centre at the corner (2, 1) of stride 16; half of the image wide and tall
    torch.testing.assert_close(found.boxes[0, 8], torch.tensor([32.0 - 24, 16 - 16, 32 + 24, 16 + 16]))
    assert found.scores[0, 8, 0] == pytest.approx(0.5**0.6 * 0.5**0.4)


@pytest.mark.parametrize(("name", "weight"), [("ssd", 10.0), ("retinanet", 1.0)])
def test_heads_with_anchors(name, weight):
    anchors = torch.tensor([[0.0, 0, 10, 20], [30.0, 30, 40, 40]])
    offsets, logits = torch.zeros(1, 2, 4), torch.zeros(1, 2, 3)
    offsets[0, 0, 0], logits[0, 0] = weight * 0.5, torch.tensor([0.0, 0.0, torch.tensor(2.0).log()])
    found = make_decoder(name, SIZE, anchors)({"cls_logits": logits, "bbox_regression": offsets})
    assert found.boxes.tolist() == [[[5, 0, 15, 20], [30, 30, 40, 40]]]
    expected = [0.25, 0.5] if name == "ssd" else [0.5, 0.5, 2 / 3]
    assert found.scores[0, 0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(make_decoder(name, SIZE)((logits, offsets, anchors)).boxes, found.boxes)
    with pytest.raises(UserError, match=r"cannot read outputs of shape .*anchors \(K, 4\)"):
        make_decoder(name, SIZE)((logits, offsets))


@pytest.mark.parametrize("name", ["detr", "rtdetr"])
def test_queries(name):
    logits, boxes = torch.zeros(1, 5, 3), torch.tensor([0.5, 0.5, 0.5, 1.0]).expand(1, 5, 4)
    found = make_decoder(name, SIZE)({"pred_logits": logits, "pred_boxes": boxes})
    assert found.boxes[0, 0].tolist() == [24, 0, 72, 64]
    assert found.scores[0, 0].tolist() == pytest.approx([1 / 3, 1 / 3] if name == "detr" else [0.5, 0.5, 0.5])
    assert make_decoder(name, SIZE).overlap is None


@pytest.mark.parametrize("name", DECODERS)
def test_other_outputs_are_refused(name):
    with pytest.raises(UserError, match=rf"--decode {name} cannot read outputs of shape \(2, 10\)"):
        make_decoder(name, SIZE)(torch.zeros(2, 10))


def test_a_function_of_the_user(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def decode(output):\n    return output[..., :4], output[..., 4:].sigmoid()\n"
        "decode.overlap = 0.6\n"
        "def flat(output):\n    return output[..., :4], output[..., 4]\n"
        "def one(output):\n    return output\n"
    )
    decoder = make_decoder(f"{file}:decode", SIZE)
    assert decoder(torch.zeros(2, 7, 9)).scores.shape == (2, 7, 5)
    assert decoder.overlap == 0.6
    for name, shown in (("flat", r"tuple of shape \(2, 7, 4\), shape \(2, 7\)"), ("one", r"shape \(2, 7, 9\)")):
        with pytest.raises(UserError, match=rf"{name} returned {shown}\. Expected boxes \(N, K, 4\)"):
            make_decoder(f"{file}:{name}", SIZE)(torch.zeros(2, 7, 9))
    with pytest.raises(UserError, match="Did you mean: yolox"):
        make_decoder("yolx", SIZE)
