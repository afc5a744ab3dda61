"""Load a network from a reference, and know how to load it again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lana.config.recipe import Recipe
from lana.errors import UserError
from lana.models.libraries import build_network
from lana.models.weights import load_weights
from lana.networks.constant_arguments import bind, watched_calls


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images become a network's input: resized to `image_size`, scaled to 0…1, normalised per channel.

    `channels` is 1 for grey images and 3 for RGB.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.channels, self.image_size, self.image_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A network in evaluation mode, its input, and the references that load it again.

    `input_shape` is the shape of one example without the batch; `preprocessing` is None for what is not an image.
    """

    module: nn.Module
    reference: str
    weights: str | None
    input_shape: tuple[int, ...]
    preprocessing: Preprocessing | None
    model_args: str | None = None

    def example(self, batch: int = 1) -> Tensor:
        """A fixed random input, (batch, *input_shape), of normal distribution."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, *self.input_shape, generator=generator)

    def to_json(self) -> dict[str, Any]:
        """What it takes to build the same network again, without weights."""
        preprocessing = self.preprocessing
        return {
            "reference": self.reference,
            "model_args": self.model_args,
            "input_shape": list(self.input_shape),
            "preprocessing": None
            if preprocessing is None
            else {
                "image_size": preprocessing.image_size,
                "mean": preprocessing.mean,
                "std": preprocessing.std,
            },
        }


def load_teacher(
    model: str,
    *,
    weights: str | None = None,
    model_args: str | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    input_shape: tuple[int, ...] | None = None,
    pretrained: bool = True,
) -> Teacher:
    """Build the network that `model` refers to, with its weights and its preprocessing, in evaluation mode.

    Preprocessing comes from the arguments, else from the model's own configuration, else ImageNet's at 224 pixels.
    `pretrained=False` leaves the weights as they are initialised (a student brings its own).

    Raises:
        UserError: an unknown reference, an optional package that is missing, weights that are missing or do not fit.

    >>> teacher = load_teacher("digits-resnet")
    >>> teacher.example(batch=2).shape
    torch.Size([2, 1, 16, 16])
    """
    if pretrained and weights is None and model in _IMPLIED:
        model_args = ",".join(filter(None, [_IMPLIED[model], model_args]))
    kwargs = parse_arguments(model_args)
    module, own = build_network(model, kwargs, pretrained=pretrained and weights is None)
    if weights is not None and pretrained:
        load_weights(module, weights)
    preprocessing = None
    if input_shape is not None and (image_size or mean or std):
        raise UserError("--input-shape is of what is no image: give it without --image-size, --mean and --std.")
    if input_shape is None:
        own = own or {}
        size = image_size or own.get("image_size") or 224
        means, stds = mean or own.get("mean"), std or own.get("std")
        preprocessing = Preprocessing(
            image_size=size,
            mean=tuple(means or (0.485, 0.456, 0.406)),
            std=tuple(stds or (0.229, 0.224, 0.225)),
        )
        if len(preprocessing.mean) != len(preprocessing.std) or len(preprocessing.mean) not in (1, 3):
            raise UserError(
                f"--mean has {len(preprocessing.mean)} values and --std {len(preprocessing.std)}: "
                "expected one each for grey images or three each for RGB."
            )
        if max(preprocessing.mean) > 1:
            raise UserError(
                f"--mean {','.join(map(str, preprocessing.mean))}: expected means of images in 0…1, "
                "as 0.485,0.456,0.406 (divide by 255)."
            )
        if min(preprocessing.std) <= 0:
            raise UserError(f"--std {','.join(map(str, preprocessing.std))}: expected more than 0 for every channel.")
        input_shape = preprocessing.input_shape
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer):  # its fused form reads the weights of what may be replaced
            part.activation_relu_or_gelu = 0
    if not any(parameter.requires_grad for parameter in module.parameters()):  # frozen for use; a student learns
        module.requires_grad_(True)
    teacher = Teacher(
        module=module,
        reference=_absolute(model),
        weights=weights,
        input_shape=tuple(input_shape),
        preprocessing=preprocessing,
        model_args=model_args,
    )
    try_forward(teacher)
    return teacher


# What torchvision builds otherwise with its weights than without them.
_IMPLIED = {
    "torchvision:googlenet": "transform_input=true,aux_logits=false",
    "torchvision:inception_v3": "transform_input=true",
}


def teacher_of(recipe: Recipe, *, pretrained: bool = True) -> Teacher:
    """The teacher that a recipe names; where only its structure matters, without its weights."""
    return load_teacher(
        recipe.model,
        weights=recipe.weights,
        model_args=recipe.model_args,
        image_size=recipe.image_size,
        mean=recipe.mean,
        std=recipe.std,
        input_shape=recipe.input_shape,
        pretrained=pretrained,
    )


def try_forward(teacher: Teacher) -> None:
    """Run the network on a random example, and bind to its parts what they are told beside a tensor.

    Raises:
        UserError: the forward pass fails on the input shape that it was given.
    """
    try:
        with torch.no_grad(), watched_calls(teacher.module) as calls:
            teacher.module(teacher.example())
    except Exception as error:
        raise UserError(
            f"{teacher.reference} fails on one example of shape {teacher.input_shape}: {error}. "
            "Give the right --image-size, --mean and --std (one value for grey images), or --input-shape. "
            "A network that takes more than one tensor of floats is to be wrapped: its other inputs fixed, token "
            "numbers embedded before."
        ) from error
    bind(teacher.module, teacher.example(), calls)


def parse_arguments(text: str | None) -> dict[str, Any]:
    """'a=1,b=x' as a mapping, values read as YAML, and as Python would write numbers and None.

    >>> parse_arguments("num_classes=10,act=relu")
    {'num_classes': 10, 'act': 'relu'}
    >>> parse_arguments("layers=[2,2]")
    {'layers': [2, 2]}
    >>> parse_arguments("eps=1e-5,drop=None")
    {'eps': 1e-05, 'drop': None}

    Raises:
        UserError: a value without a name, or one that is not YAML.
    """
    flow, pairs = re.subn(r"(^|[,{])\s*([^\s=,{]+)\s*=", r'\1"\2": ', text or "")
    try:
        arguments = yaml.safe_load(f"{{{flow}}}")
    except yaml.YAMLError:
        arguments = None
    if arguments is None or len(arguments) > pairs:
        raise UserError(
            f"--model-args {text!r}: expected NAME=VALUE pairs, separated by commas, e.g. num_classes=10,act=relu."
        )
    return {name: _as_python(value) for name, value in arguments.items()}


def _as_python(value: Any) -> Any:
    if value == "None":
        return None
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", value, re.IGNORECASE)
    return float(value) if is_number else value


def _absolute(model: str) -> str:
    """A file reference with its path made absolute, so that it loads from any working directory."""
    path, colon, name = model.partition(":")
    return f"{Path(path).expanduser().resolve()}:{name}" if colon and path.endswith(".py") else model
