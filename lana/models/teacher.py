"""Load a network from a reference, and know how to load it again."""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lana.common.importing import fenced
from lana.common.reference import LOCAL, split_reference
from lana.config.options import TeacherOptions
from lana.config.recipe import OPTIONS
from lana.errors import UserError
from lana.models.libraries import build_network
from lana.models.model_arguments import parse_arguments
from lana.models.plain_modules import compute_weights
from lana.models.preprocessing import InputOptions, Preprocessing, make_preprocessing
from lana.models.weights import load_weights
from lana.networks.constant_arguments import keep_constant_arguments, observed_calls

logger = logging.getLogger(__name__)


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
        """The description that builds the same network again, without weights."""
        return {
            "reference": self.reference,
            "model_args": self.model_args,
            "input_shape": list(self.input_shape),
            "preprocessing": None if self.preprocessing is None else asdict(self.preprocessing),
        }


def load_teacher(
    model: str,
    *,
    weights: str | None = None,
    model_args: str | None = None,
    pretrained: bool = True,
    **inputs: Unpack[InputOptions],
) -> Teacher:
    """Build the network that `model` refers to, with its weights and its preprocessing, in evaluation mode.

    Preprocessing comes from `image_size`, `mean` and `std`, else from the model's own configuration, else it is
    ImageNet's at 224 pixels. A network that takes no images needs `input_shape` instead.
    `pretrained=False` leaves the weights as they are initialised (a student brings its own).

    Raises:
        UserError: an unknown reference, an optional package that is missing, weights that are missing or do not fit.

    >>> teacher = load_teacher("digits-resnet")
    >>> teacher.example(batch=2).shape
    torch.Size([2, 1, 16, 16])
    """
    checked = {name: OPTIONS[name].checked(value) for name, value in inputs.items() if name in OPTIONS}
    inputs = cast(InputOptions, {**inputs, **checked})
    if pretrained and weights is None and model in _IMPLIED:
        model_args = ",".join(filter(None, [_IMPLIED[model], model_args]))
    module, own = build_network(model, parse_arguments(model_args), pretrained=pretrained and weights is None)
    if weights is not None and pretrained:
        load_weights(module, weights)
    module = _in_evaluation(module, model)
    preprocessing = make_preprocessing(own, **inputs, channels_taken=functools.partial(_channels_taken, module))
    input_shape = inputs.get("input_shape") if preprocessing is None else preprocessing.input_shape
    teacher = Teacher(
        module=_trainable(module),
        reference=_absolute(model),
        weights=weights,
        input_shape=tuple(input_shape or ()),
        preprocessing=preprocessing,
        model_args=model_args,
    )
    if pretrained:
        tell_no_numbers(module, weights or model)
    try_forward(teacher)
    return teacher


def tell_no_numbers(module: nn.Module, source: str) -> None:
    """Warn of weights that are NaN or infinite, and of statistics that are NaN (masks hold infinities)."""
    damaged = [
        name
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
        if tensor.is_floating_point() and not is_lazy(tensor) and not _usable(tensor)
    ]
    if damaged:
        logger.warning(
            "%s: %s no numbers (NaN or infinite): %s%s. Its outputs mean nothing. Give other weights.",
            source,
            "1 tensor holds" if len(damaged) == 1 else f"{len(damaged)} tensors hold",
            ", ".join(damaged[:3]),
            " …" if len(damaged) > 3 else "",
        )


def _usable(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all() if isinstance(tensor, nn.Parameter) else not tensor.isnan().any())


def _channels_taken(module: nn.Module, height: int, width: int) -> tuple[int, ...]:
    """Which images the network takes: grey ones (1), RGB (3), or both."""
    if any(is_lazy(parameter) for parameter in module.parameters()):  # the first input would shape it
        return ()
    taken = []
    for channels in (1, 3):
        with contextlib.suppress(Exception), torch.no_grad():  # the network may be the user's own code
            module(torch.zeros(1, channels, height, width))
            taken.append(channels)
    return tuple(taken)


def _in_evaluation(module: nn.Module, reference: str) -> nn.Module:
    for part in module.modules():
        if part.eval() is not part:
            _let_train_return_itself(type(part))
        if part.eval() is not part:
            raise UserError(
                f"{type(part).__name__} of {reference} overrides eval() and does not return itself, as "
                "PyTorch's own does. End the method with: return self."
            )
    return module.eval()


def _let_train_return_itself(kind: type[nn.Module]) -> None:
    """Let a class return the module from train(), as PyTorch's own do; some of timm's do not."""
    own = kind.train

    @functools.wraps(own)
    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        own(self, mode)
        return self

    kind.train = train  # type: ignore[method-assign, assignment]  # of the class, since networks are copied


def _trainable(module: nn.Module) -> nn.Module:
    """The module without what keeps its parts from being replaced or trained."""
    compute_weights(module)
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer):  # its fused form reads the weights of what may be replaced
            part.activation_relu_or_gelu = 0
    for parameter in module.parameters():  # frozen for use, or by transfer learning; a student learns in full
        if parameter.is_floating_point() and not parameter.requires_grad:
            parameter.requires_grad_(True)
    return module


# Arguments that torchvision implies where it loads weights.
_IMPLIED = {
    "torchvision:googlenet": "transform_input=true,aux_logits=false",
    "torchvision:inception_v3": "transform_input=true",
}


def teacher_of(options: TeacherOptions, *, pretrained: bool = True) -> Teacher:
    """The teacher that a recipe names; where only its structure matters, without its weights."""
    return load_teacher(
        options.model,
        weights=options.weights,
        model_args=options.model_args,
        image_size=options.image_size,
        mean=options.mean,
        std=options.std,
        input_shape=options.input_shape,
        image_width=options.image_width,
        fit=options.fit,
        fill=options.fill,
        channel_order=options.channel_order,
        pretrained=pretrained,
    )


def try_forward(teacher: Teacher) -> None:
    """Run the network on a random example, and bind to its parts their constant arguments.

    Raises:
        UserError: the forward pass fails on the input shape that it was given.
    """
    try:
        with fenced(), torch.no_grad(), observed_calls(teacher.module) as calls:
            teacher.module(teacher.example())
    except Exception as error:  # the network may be the user's own code
        raise UserError(
            f"{teacher.reference} fails on one example of shape {teacher.input_shape}: {error}. "
            "Give the right --image-size, --mean and --std (one value holds for all channels), or --input-shape. "
            "Wrap a network that takes more than one tensor of floats: fix the others, embed token numbers before."
        ) from error
    keep_constant_arguments(teacher.module, teacher.example(), calls)


def _absolute(model: str) -> str:
    """A reference to a file or folder with its path made absolute, so that it loads from any working directory."""
    kind, name = split_reference(model)
    if kind == "timm" and name.startswith(LOCAL):
        return f"timm:{LOCAL}{Path(name.removeprefix(LOCAL)).expanduser().resolve()}"
    return f"{Path(kind).expanduser().resolve()}:{name}" if kind.endswith(".py") else model
