"""Image files: which of them are read, and how they are opened."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Rasters that Pillow decodes by itself: EPS would start Ghostscript.
RASTERS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO", "QOI", "ICO", "ICNS", "DDS"),
    *("PSD", "SGI", "SUN", "XBM", "XPM", "MSP", "PCX", "DIB", "TGA"),
)
WEAK_SIGNATURE = ("PCX", "DIB", "TGA")  # other files begin like these: their suffix decides


@functools.cache
def raster_formats() -> tuple[str, ...]:
    """The rasters that the installed Pillow knows."""
    from PIL import Image

    Image.init()
    return tuple(name for name in RASTERS if name in Image.OPEN)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of raster images, in lower case."""
    from PIL import Image

    raster_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in RASTERS)


def open_image(source: Path | bytes, formats: tuple[str, ...] | None = None) -> Picture:
    """Open a raster image; its pixels are not decoded yet.

    Raises:
        Exception: Pillow's readers raise OSError, SyntaxError, ValueError, struct.error and others.
    """
    from PIL import Image

    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats or raster_formats())


def is_image(path: Path) -> bool:
    """True for a file that is an image by its suffix, or by how it begins."""
    if path.suffix.lower() in image_suffixes():
        return True
    try:
        with open_image(path, tuple(name for name in raster_formats() if name not in WEAK_SIGNATURE)):
            return True
    except Exception:  # as of open_image: no image
        return False


def images_among(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The images, and what is none: other files, pipes (to open one would wait for ever) and linked folders."""
    images: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.is_file() and is_image(path):
            images.append(path)
        elif (not path.is_dir() or path.is_symlink()) and not path.name.startswith("."):
            others.append(path)
    return images, others
