"""The lines of Python in a student's card that run its ONNX file on one image, without lana or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CODE = """\
import json, numpy, onnxruntime
from PIL import Image
size, resized, mean, std = {image_size}, {resized}, {mean}, {std}
image = Image.open("photo.jpg").convert("{mode}")
scale = resized / min(image.size)
method = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.BILINEAR
image = image.resize([max(size, round(side * scale)) for side in image.size], method)
left, top = ((side - size) // 2 for side in image.size)
pixels = numpy.array(image.crop((left, top, left + size, top + size))).reshape(size, size, {channels})
inputs = ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None].repeat({batch}, 0).astype(numpy.float32)
session = onnxruntime.InferenceSession("model.onnx")
output = session.run(None, {{"input": inputs}})[0]
"""

_CLASSES = """\
print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[output[0].argmax()])
"""

_NUMBER = """\
print(output[0].argmax(0))
"""


def example_code(preprocessing: Mapping[str, Any], *, resized: int, batch: int, named: bool) -> str:
    """Python that prints the class of `photo.jpg`: its name where the file holds the names of classes."""
    channels = len(preprocessing["mean"])
    code = _CODE.format(
        image_size=preprocessing["image_size"],
        resized=resized,
        mean=list(preprocessing["mean"]),
        std=list(preprocessing["std"]),
        mode="RGB" if channels == 3 else "L",
        channels=channels,
        batch=batch,
    )
    return code + (_CLASSES if named else _NUMBER)
