"""From a detector's outputs to boxes and class scores: a user's function, or a ready-made one for a known head.

A ready-made one gives the logits as well, which are compared in distillation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lana.common.importing import explain_function, function_from_file
from lana.common.suggestions import near
from lana.detection.geometry import corners
from lana.errors import UserError

SUPPRESSED_OVERLAP = 0.45  # of two boxes of a class: the worse is left out
BINS = 16  # of a distributional box side, as in YOLOv8 and its successors


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Candidates of a batch.

    Attributes:
        boxes: (N, K, 4) x1 y1 x2 y2 in pixels of the network's input.
        scores: (N, K, C) in 0…1, a class each.
        logits: (N, K, L) that are read through a sigmoid (classes, objectness), where known.
        choices: (N, K, C or C + 1) logits that are read through a softmax, where known.
        bins: (N, K, 4, R) logits of distributional sides, where the boxes come from such.
    """

    boxes: Tensor
    scores: Tensor
    logits: Tensor | None = None
    choices: Tensor | None = None
    bins: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoder:
    """Decodes the outputs of networks that take inputs of `size` (height, width).

    `overlap` is that of non-maximum suppression, None where there is none (DETR). `anchors` are those of the network.
    """

    name: str
    decode: Callable[[Any, Decoder], Decoded]
    size: tuple[int, int]
    overlap: float | None = SUPPRESSED_OVERLAP
    anchors: Tensor | None = None

    def __call__(self, output: Any) -> Decoded:
        return self.decode(output, self)


def make_decoder(reference: str, size: tuple[int, int], anchors: Tensor | None = None) -> Decoder:
    """The decoder that `reference` names: a ready-made one, or path/to/file.py:function.

    The function takes the output and returns boxes (N, K, 4), in pixels of the input, and class scores (N, K, C).
    An attribute `overlap` of it sets that of the suppression.

    Raises:
        UserError: an unknown name; a file without that function.
    """
    if reference in DECODERS:
        overlap = None if reference in ("detr", "rtdetr") else SUPPRESSED_OVERLAP
        return Decoder(name=reference, decode=DECODERS[reference], size=size, overlap=overlap, anchors=anchors)
    path, colon, name = reference.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UserError(
            f"Unknown --decode {reference[:60]!r}. Expected {', '.join(DECODERS)} or path/to/file.py:function."
            f"{near(reference, list(DECODERS))}"
        )
    function = function_from_file(path, name, what="a decoder")

    def decode(output: Any, _: Decoder) -> Decoded:
        with explain_function(reference):
            returned = function(output)
        if not isinstance(returned, tuple) or len(returned) != 2 or not all(isinstance(t, Tensor) for t in returned):
            raise UserError(f"{reference} returned {_shown(returned)}. {EXPECTED}")
        boxes, scores = returned
        if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape[2] != 4 or boxes.shape[:2] != scores.shape[:2]:
            raise UserError(f"{reference} returned {_shown(returned)}. {EXPECTED}")
        return Decoded(boxes=boxes, scores=scores)

    return Decoder(name=reference, decode=decode, size=size, overlap=getattr(function, "overlap", SUPPRESSED_OVERLAP))


EXPECTED = (
    "Expected boxes (N, K, 4), as x1 y1 x2 y2 in pixels of the network's input, and class scores (N, K, C) in 0…1."
)


def _shown(returned: Any) -> str:
    if isinstance(returned, (tuple, list)):
        return f"{type(returned).__name__} of {', '.join(map(_shown, returned))}"
    return f"shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else type(returned).__name__


def leaves(output: Any) -> list[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    parts: Sequence[Any] = ()
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, (tuple, list)):
        parts = output
    return [leaf for part in parts for leaf in leaves(part)]


def _refuse(decoder: Decoder, output: Any, expected: str) -> UserError:
    shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves(output))
    return UserError(
        f"--decode {decoder.name} cannot read outputs of shape {shapes}. Expected {expected}. "
        "Give a function of your own: --decode file.py:function."
    )


def _maps(output: Any) -> list[Tensor]:
    """The feature maps of an output (4 dimensions), the finest first."""
    return sorted((leaf for leaf in leaves(output) if leaf.ndim == 4), key=lambda leaf: -leaf.shape[2])


def _grid(like: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The places of a map, (H·W, 2) as x, y, and the stride (2,)."""
    rows, columns = like.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(rows, device=like.device), torch.arange(columns, device=like.device), indexing="ij"
    )
    stride = torch.tensor([size[1] / columns, size[0] / rows], device=like.device)
    return torch.stack((x.flatten(), y.flatten()), 1).float(), stride


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H·W, C)."""
    return maps.flatten(2).transpose(1, 2)


def yolo(output: Any, decoder: Decoder, bins: int | None = None) -> Decoded:
    """Anchor-free YOLO heads (v6, v8 … 12): maps (N, 4·bins + C, H, W), or (N, 4 + C, K) decoded.

    With DFL a side is a distribution over 16 bins, without it a number; maps of more than 64 channels are taken as DFL.
    """
    maps = _maps(output)
    decoded = [leaf for leaf in leaves(output) if leaf.ndim == 3]
    if not maps and len(decoded) == 1 and decoded[0].shape[1] > 4:
        rows = decoded[0].transpose(1, 2)
        return Decoded(boxes=corners(rows[..., :4]), scores=rows[..., 4:])
    if not maps or len({leaf.shape[1] for leaf in maps}) > 1:
        raise _refuse(decoder, output, f"maps of 4·{BINS} + C or of 4 + C channels, or one output (N, 4 + C, K)")
    if bins is None:
        bins = BINS if maps[0].shape[1] > 4 * BINS else 1
    boxes, sides = [], []
    for leaf in maps:
        places, stride = _grid(leaf, decoder.size)
        side = _rows(leaf[:, : 4 * bins]).unflatten(2, (4, bins))
        distance = (
            side.softmax(3) @ torch.arange(bins, device=leaf.device, dtype=side.dtype) if bins > 1 else side[..., 0]
        )
        centre = places + 0.5
        boxes.append(torch.cat(((centre - distance[..., :2]) * stride, (centre + distance[..., 2:]) * stride), 2))
        sides.append(side)
    logits = torch.cat([_rows(leaf[:, 4 * bins :]) for leaf in maps], 1)
    return Decoded(
        boxes=torch.cat(boxes, 1),
        scores=logits.sigmoid(),
        logits=logits,
        bins=torch.cat(sides, 1) if bins > 1 else None,
    )


def yolo_plain(output: Any, decoder: Decoder) -> Decoded:
    """An anchor-free YOLO head without DFL, whatever its number of classes."""
    return yolo(output, decoder, bins=1)


def yolox(output: Any, decoder: Decoder) -> Decoded:
    """YOLOX: maps (N, 5 + C, H, W) of logits, or (N, K, 5 + C) decoded: x, y, width, height, objectness, classes."""
    maps = _maps(output)
    decoded = [leaf for leaf in leaves(output) if leaf.ndim == 3]
    if not maps and len(decoded) == 1 and decoded[0].shape[2] > 5:
        rows = decoded[0]
        return Decoded(boxes=corners(rows[..., :4]), scores=rows[..., 4:5] * rows[..., 5:])
    if not maps or len({leaf.shape[1] for leaf in maps}) > 1 or maps[0].shape[1] <= 5:
        raise _refuse(decoder, output, "maps of 5 + C channels, or one output (N, K, 5 + C)")
    boxes = []
    for leaf in maps:
        places, stride = _grid(leaf, decoder.size)
        rows = _rows(leaf[:, :4])
        boxes.append(corners(torch.cat(((rows[..., :2] + places) * stride, rows[..., 2:].exp() * stride), 2)))
    logits = torch.cat([_rows(leaf[:, 4:]) for leaf in maps], 1)
    scores = logits[..., :1].sigmoid() * logits[..., 1:].sigmoid()
    return Decoded(boxes=torch.cat(boxes, 1), scores=scores, logits=logits)


def fastestdet(output: Any, decoder: Decoder) -> Decoded:
    """FastestDet: one map (N, 5 + C, H, W): objectness, offset (tanh), size (sigmoid), classes (softmax)."""
    maps = _maps(output)
    if len(maps) != 1 or maps[0].shape[1] <= 5:
        raise _refuse(decoder, output, "one map of 5 + C channels")
    places, stride = _grid(maps[0], decoder.size)
    rows = _rows(maps[0])
    whole = torch.tensor([decoder.size[1], decoder.size[0]], device=rows.device)
    boxes = torch.cat(((rows[..., 1:3].tanh() + places) * stride, rows[..., 3:5].sigmoid() * whole), 2)
    choices, objectness = rows[..., 5:], rows[..., :1]
    scores = objectness.sigmoid() ** 0.6 * choices.softmax(2) ** 0.4
    return Decoded(boxes=corners(boxes), scores=scores, logits=objectness, choices=choices)


def _anchored(output: Any, decoder: Decoder, weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Class logits and boxes of a head with anchors."""
    rows = [leaf for leaf in leaves(output) if leaf.ndim == 3]
    regressed = [leaf for leaf in rows if leaf.shape[2] == 4]
    others = [leaf for leaf in rows if leaf.shape[2] != 4]
    anchors = decoder.anchors if decoder.anchors is not None else next((a for a in leaves(output) if a.ndim == 2), None)
    if len(regressed) != 1 or len(others) != 1 or anchors is None or len(anchors) != regressed[0].shape[1]:
        raise _refuse(decoder, output, "class logits (N, K, C), box offsets (N, K, 4) and anchors (K, 4) in pixels")
    anchors = anchors.to(regressed[0])
    size, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
    offset = regressed[0] / torch.tensor(weights, device=anchors.device)
    scaled = size * offset[..., 2:].clamp(max=4.135).exp()  # log(1000 / 16), as torchvision bounds it
    return others[0], corners(torch.cat((centre + offset[..., :2] * size, scaled), 2))


def ssd(output: Any, decoder: Decoder) -> Decoded:
    """SSD: class logits with the background first, offsets from anchors (weights 10, 10, 5, 5)."""
    choices, boxes = _anchored(output, decoder, (10.0, 10.0, 5.0, 5.0))
    return Decoded(boxes=boxes, scores=choices.softmax(2)[..., 1:], choices=choices)


def retinanet(output: Any, decoder: Decoder) -> Decoded:
    """RetinaNet: a sigmoid a class, offsets from anchors."""
    logits, boxes = _anchored(output, decoder, (1.0, 1.0, 1.0, 1.0))
    return Decoded(boxes=boxes, scores=logits.sigmoid(), logits=logits)


def _queries(output: Any, decoder: Decoder) -> tuple[Tensor, Tensor]:
    """The logits and boxes of queries; of several decoder layers the last."""
    if isinstance(output, Mapping):
        logits = output.get("pred_logits", output.get("logits"))
        boxes = output.get("pred_boxes")
    else:
        rows = [leaf for leaf in leaves(output) if leaf.ndim == 3]
        boxes = next((leaf for leaf in rows if leaf.shape[2] == 4), None)
        logits = next((leaf for leaf in rows if leaf.shape[2] != 4), None)
    if not isinstance(logits, Tensor) or not isinstance(boxes, Tensor) or boxes.shape[:2] != logits.shape[:2]:
        raise _refuse(decoder, output, "pred_logits (N, queries, C) and pred_boxes (N, queries, 4)")
    height, width = decoder.size
    return logits, corners(boxes) * torch.tensor([width, height, width, height], device=boxes.device)


def detr(output: Any, decoder: Decoder) -> Decoded:
    """DETR: a softmax over the classes and, last, no object; boxes in shares of the image."""
    choices, boxes = _queries(output, decoder)
    return Decoded(boxes=boxes, scores=choices.softmax(2)[..., :-1], choices=choices)


def rtdetr(output: Any, decoder: Decoder) -> Decoded:
    """RT-DETR and Deformable DETR: a sigmoid a class; boxes in shares of the image."""
    logits, boxes = _queries(output, decoder)
    return Decoded(boxes=boxes, scores=logits.sigmoid(), logits=logits)


DECODERS: dict[str, Callable[[Any, Decoder], Decoded]] = {
    "yolo": yolo,
    "yolo-plain": yolo_plain,
    "yolox": yolox,
    "ssd": ssd,
    "retinanet": retinanet,
    "detr": detr,
    "rtdetr": rtdetr,
    "fastestdet": fastestdet,
}
