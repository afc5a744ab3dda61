"""The preprocessing that a network declares, and where each value is from."""

import json
from types import SimpleNamespace

import pytest
from torch import nn

from lana.models.own_preprocessing import of_processor, own_preprocessing
from lana.models.preprocessing import make_preprocessing


def wrapped(**attributes):
    inner, outer = nn.Identity(), nn.Module()
    vars(inner).update(attributes)
    outer.net = inner
    return outer


@pytest.mark.parametrize("kind", [dict, lambda **fields: SimpleNamespace(**fields)])
def test_a_configuration_of_timm_behind_a_function_is_read(kind):
    config = kind(input_size=(3, 192, 192), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), crop_pct=0.75)
    images = make_preprocessing(own_preprocessing(wrapped(pretrained_cfg=config), "net.py:build"))
    assert (images.image_size, images.mean, images.crop_share, images.resized) == (192, (0.1, 0.2, 0.3), 0.75, 256)
    assert str(images) == (
        "192 pixels, RGB, mean 0.1 0.2 0.3, std 0.5 0.5 0.5, shorter side to 256 then centre: "
        "from the model's own configuration"
    )


def test_a_configuration_of_transformers_behind_a_function_is_read(tmp_path):
    processor = {"size": {"height": 256, "width": 256}, "crop_size": 224, "image_mean": [0.5] * 3, "image_std": [1] * 3}
    config = SimpleNamespace(image_size=224, name_or_path=str(tmp_path))
    assert own_preprocessing(wrapped(config=config), "net.py:build") == {"image_size": 224}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    own = own_preprocessing(wrapped(config=config), "net.py:build")
    assert own == {"image_size": 224, "mean": [0.5] * 3, "std": [1] * 3, "crop_share": 0.875}
    assert make_preprocessing({"image_size": 224}).source == "from the model's own configuration; mean, std assumed"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": 224, "do_center_crop": False, "crop_size": 200}, {"image_size": 224}),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, {"image_size": 224, "crop_share": 0.875}),
        ({}, {}),
    ],
)
def test_image_processors(fields, expected):
    assert of_processor(fields) == expected


def test_the_attribute_of_ones_own_comes_first():
    module = wrapped(pretrained_cfg={"input_size": (3, 192, 192)})
    vars(module)["preprocessing"] = {"image_size": 32, "crop_share": 0.5}
    assert make_preprocessing(own_preprocessing(module, "net.py:build")).resized == 64


def test_one_value_stands_for_all_channels():
    images = make_preprocessing({"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}, mean=(0.5,))
    assert images.mean == (0.5, 0.5, 0.5)
    assert make_preprocessing(None, mean=(0.5,), std=(0.5,), channels_taken=lambda height, width: [3]).channels == 3
    assert make_preprocessing(None).source == "assumed"
    assert make_preprocessing(None, image_size=8, mean=(0.5,), std=(0.5,)).source == "given"
