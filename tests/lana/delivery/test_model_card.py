"""The card: what is fed, the classes, and lines of Python that run the file."""

import dataclasses
import json
import re

import pytest
import torch
from made_summary import make_summary
from PIL import Image
from torch import nn

from lana.data.images import to_pixels
from lana.data.split import from_arrays
from lana.delivery.model_card import card
from lana.exporters.metadata import describe, described
from lana.exporters.onnx_export import export_onnx
from lana.models.preprocessing import Preprocessing

CLASSES = ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("channels", "size", "options"),
    [
        (3, 8, {}),
        (3, 6, {"crop_share": 0.75}),
        (1, 20, {"crop_share": 0.875}),
        (3, 8, {"fit": "stretch", "image_width": 14}),
        (3, 12, {"fit": "letterbox", "image_width": 10, "channel_order": "bgr", "fill": 90}),
        (1, 9, {"image_width": 16}),
    ],
)
def test_the_code_of_the_card_gives_what_lana_gives(tmp_path, monkeypatch, capsys, channels, size, options):
    torch.manual_seed(0)
    images = Preprocessing(image_size=size, mean=(0.4,) * channels, std=(0.2,) * channels, **options)
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * images.width, 3)).eval()
    file = export_onnx(network, torch.zeros(2, *images.input_shape), tmp_path / "model.onnx")
    describe(file, dataclasses.asdict(images), CLASSES)
    picture = Image.effect_noise((17, 12), 90).convert("RGB")
    picture.save(tmp_path / "photo.png")
    text = card(make_summary(preprocessing=dataclasses.asdict(images), classes=CLASSES, batch=2))
    assert f"Images of {images}." in text
    assert "Classes, in their order: cat, dog, eel." in text
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "onnxruntime" in block)
    assert "torch" not in code
    assert "lana" not in code
    found = {}
    monkeypatch.chdir(tmp_path)
    exec(code.replace("photo.jpg", "photo.png"), found)
    inputs, _ = next(from_arrays(to_pixels(picture, images)[None], torch.zeros(1), images).batches(1))
    with torch.no_grad():
        expected = network(inputs)[0]
    assert torch.allclose(torch.from_numpy(found["outputs"][0][0]), expected, atol=1e-4)
    assert capsys.readouterr().out.strip() == CLASSES[int(expected.argmax())]


def test_the_file_says_what_it_is_fed(tmp_path):
    file = export_onnx(nn.Identity().eval(), torch.zeros(1, 3), tmp_path / "model.onnx")
    describe(file, {"image_size": 8}, None)
    describe(file, None, CLASSES)
    assert described(file) == {"preprocessing": {"image_size": 8}, "classes": list(CLASSES)}


def test_no_images_no_lines():
    assert "onnxruntime.Inf" not in card(make_summary(preprocessing=None))
    assert json.loads(json.dumps(dataclasses.asdict(make_summary())))["classes"] is None
