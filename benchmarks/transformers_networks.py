"""Small networks of Hugging Face's Transformers, as a user would hand them to lana.

`python benchmarks/coverage.py --transformers`, from the repository's root, examines them. It needs `pip install
transformers`, which lana does not.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lana.common.importing import import_torchvision

import_torchvision()  # Transformers import it

SHAPES = {
    "bert": (12, 64),
    "convnext": (3, 64, 64),
    "dinov2": (3, 32, 32),
    "dinov3": (3, 32, 32),
    "llama": (12, 64),
    "resnet": (3, 64, 64),
    "segformer": (3, 64, 64),
    "siglip": (3, 32, 32),
    "swin": (3, 32, 32),
    "vit": (3, 32, 32),
    "wav2vec2": (4000,),
}
_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}


class Wrapped(nn.Module):
    """A network whose one input has the name `given`, and of which the output `wanted` counts."""

    def __init__(self, network: nn.Module, given: str, wanted: str) -> None:
        super().__init__()
        self.network, self.given, self.wanted = network, given, wanted

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.network(**{self.given: x}), self.wanted)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, num_labels=3)
    return Wrapped(BertForSequenceClassification(config), "inputs_embeds", "logits")


def convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 2, 1], image_size=64, num_labels=10)
    return ConvNextForImageClassification(config)


def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    return Dinov2ForImageClassification(Dinov2Config(**_VIT, num_labels=10))


def dinov3() -> nn.Module:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    return Wrapped(DINOv3ViTModel(DINOv3ViTConfig(**_VIT, num_register_tokens=4)), "pixel_values", "pooler_output")


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=100,
        use_cache=False,
    )
    return Wrapped(LlamaModel(config), "inputs_embeds", "last_hidden_state")


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], num_labels=10)
    )


def segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(num_labels=4, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], decoder_hidden_size=32)
    return SegformerForSemanticSegmentation(config)


def siglip() -> nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return Wrapped(SiglipVisionModel(SiglipVisionConfig(**_VIT)), "pixel_values", "pooler_output")


def swin() -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        embed_dim=32, depths=[2, 2], num_heads=[2, 4], image_size=32, patch_size=2, window_size=4, num_labels=10
    )
    return SwinForImageClassification(config)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**_VIT, num_labels=10))


def wav2vec2() -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 2),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_labels=4,
    )
    return Wrapped(Wav2Vec2ForSequenceClassification(config), "input_values", "logits")
