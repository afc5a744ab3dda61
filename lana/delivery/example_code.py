"""The lines of Python in a student's card that run its ONNX file on one image, without lana or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CODE = """\
import json, numpy, onnxruntime
from PIL import Image
width, height, mean, std = {width}, {height}, {mean}, {std}
image = Image.open("photo.jpg").convert("{mode}")
{fit}pixels = numpy.array(image).reshape(height, width, {channels}){reversed}
inputs = ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None].repeat({batch}, 0).astype(numpy.float32)
session = onnxruntime.InferenceSession("model.onnx")
outputs = session.run(None, {{"input": inputs}})
"""

_FITS = {
    "crop": """\
scale = max({resized} * (width / height) / image.size[0], {resized} / image.size[1])
method = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.BILINEAR
sides = [max(least, round(side * scale)) for side, least in zip(image.size, (width, height))]
left, top = (sides[0] - width) // 2, (sides[1] - height) // 2
image = image.resize(sides, method).crop((left, top, left + width, top + height))
""",
    "stretch": """\
image = image.resize((width, height), Image.Resampling.BILINEAR)
""",
    "letterbox": """\
scale = min(width / image.size[0], height / image.size[1])
image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
canvas = Image.new(image.mode, (width, height), ({fill},) * len(image.getbands()))
canvas.paste(image, ((width - image.size[0]) // 2, (height - image.size[1]) // 2))
image = canvas
""",
}

_ANSWERS = {
    "names": """\
print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[outputs[0][0].argmax()])
""",
    "numbers": """\
print(outputs[0][0].argmax(0))
""",
    "boxes": """\
print({output.name: values.shape for output, values in zip(session.get_outputs(), outputs)})
""",
}


def example_code(preprocessing: Mapping[str, Any], *, resized: int, batch: int, answer: str) -> str:
    """Python that prints what a file says of `photo.jpg`: the name or number of its class, or boxes as they come."""
    channels, height = len(preprocessing["mean"]), preprocessing["image_size"]
    fit = _FITS[preprocessing.get("fit", "crop")].format(resized=resized, fill=preprocessing.get("fill", 114))
    code = _CODE.format(
        width=preprocessing.get("image_width") or height,
        height=height,
        mean=list(preprocessing["mean"]),
        std=list(preprocessing["std"]),
        mode="RGB" if channels == 3 else "L",
        fit=fit,
        channels=channels,
        reversed="[:, :, ::-1]" if preprocessing.get("channel_order") == "bgr" and channels == 3 else "",
        batch=batch,
    )
    return code + _ANSWERS[answer]
