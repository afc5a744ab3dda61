"""Layers of networks that people use: the blocks of their papers."""

import importlib.util

import pytest

from lana.networks.layers import find_layers


def names(scan):
    return [layer.name for layer in scan.layers]


@pytest.mark.parametrize(
    ("reference", "block", "count"),
    [
        ("timm:resnet18", "layer2.0", 8),
        ("timm:mobilenetv3_small_050", "blocks.2.0", 10),
        ("timm:vit_tiny_patch16_224", "blocks.5", 12),
        ("timm:swin_tiny_patch4_window7_224", "layers.2.blocks.3", 12),
        ("timm:convnext_atto", "stages.2.blocks.1", 12),
        ("torchvision:shufflenet_v2_x0_5", "stage3.2", 16),
    ],
)
def test_blocks_of_real_networks(reference, block, count):
    from lana.models.teacher import load_teacher

    if importlib.util.find_spec("timm") is None:
        pytest.skip("DID NOT RUN: timm is not installed")
    teacher = load_teacher(reference, pretrained=False)
    scan = find_layers(teacher.module, (teacher.example(),))
    kind = type(teacher.module.get_submodule(block))
    assert block in names(scan)
    assert sum(type(teacher.module.get_submodule(layer.name)) is kind for layer in scan.layers) == count
    assert sum(layer.macs for layer in scan.layers) > 0.9 * scan.total_macs
