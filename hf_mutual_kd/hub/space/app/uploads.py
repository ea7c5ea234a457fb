"""Reads what a visitor uploads, and refuses it in words for the visitor before it can do harm."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Of uploads; Pillow's other readers are never asked."""
MOST_FILE = 10_000_000
"""Bytes of an upload."""
MOST_PIXELS = 25_000_000
"""Of an upload, before any of them is decoded: a small file can hold an image that fills the memory."""
LONGEST_SHAPE = 10
"""Times that one side may be as long as the other: processors scale the shorter one up."""
MOST_SIDE = 768
"""Pixels; larger images are shrunk."""
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError)
"""What Pillow's readers raise for damaged files."""


class Refused(Exception):
    """Something that a visitor gave cannot be used; the text is for the visitor."""


def read_image(path: str | None) -> Image.Image:
    """An upload as an upright RGB image of at most [`MOST_SIDE`] pixels a side.

    Raises:
        [`Refused`]: no file, too large, no image of [`FORMATS`], damaged, too many pixels, or a strange shape.
    """
    try:
        with Image.open(check_file(path, "image", MOST_FILE), formats=FORMATS) as image:
            check_shape(image.width, image.height)
            return upright(image)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise Refused(f"The image has too many pixels; send one with at most {MOST_PIXELS:,}.") from None
        raise Refused(f"This file is no image, whatever its name says; send {', '.join(FORMATS)}.") from None
    except BROKEN:
        raise Refused("The image is damaged and cannot be decoded; send another one.") from None


def check_file(path: str | None, what: str, most_bytes: int) -> str:
    """Refuse no file and too large ones, before they are opened."""
    if not path or not os.path.isfile(path):
        raise Refused(f"There is no {what} yet: upload one, or pick a sample.")
    if os.path.getsize(path) > most_bytes:
        raise Refused(f"The file is larger than {most_bytes // 1_000_000} MB; send a smaller one.")
    return path


def check_shape(width: int, height: int) -> None:
    """Refuse images that would fill the memory, now or when a processor has scaled them."""
    if width * height > MOST_PIXELS:
        raise Refused(
            f"The image has {width:,} x {height:,} pixels; send one with at most {MOST_PIXELS:,}, e.g. 5000 x 5000."
        )
    if max(width, height) > LONGEST_SHAPE * min(width, height):
        raise Refused(f"One side of the image is more than {LONGEST_SHAPE} times the other; cut out a part of it.")


def upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says, in RGB: 16-bit grey is scaled, transparency dropped."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray((wide >> 8 if wide.max(initial=0) > 255 else wide).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    return image
