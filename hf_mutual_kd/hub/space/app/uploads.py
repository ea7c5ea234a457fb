"""Reads what a visitor uploads, and refuses it in words for the visitor before it can do harm."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

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
MOST_STORED = 500_000_000
"""Bytes that all uploads together may take up; the oldest go first."""
MOST_AT_ONCE = 8
"""Uploads that arrive at the same time."""
FORM = 100_000
"""Bytes of a form around a file."""
MOST_SIDE = 768
"""Pixels; larger images are shrunk."""
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError)
"""What Pillow's readers raise for damaged files."""


class Refused(Exception):
    """Something that a visitor gave cannot be used; the text is for the visitor."""


def admitted(path: str | None, folders: Iterable[Path]) -> str | None:
    """The path where it lies in one of the folders, links followed; `None` for any other, whether it exists or not.

    What a visitor posts names a file of the machine, so that without this the app would show any image on it.
    """
    try:
        found = Path(path or "").resolve(strict=True)
        inside = any(found.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):
        return None
    return str(found) if path and inside else None


class BoundedUploads:
    """ASGI middleware: what arrives by `/upload` stays below `most_file` each and [`MOST_STORED`] in all.

    Args:
        app: what it stands before.
        folder (`Path`): where uploads are kept.
        most_file (`int`): bytes of one.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], folder: Path, most_file: int):
        self.app, self.folder, self.most = app, folder, most_file + FORM
        self.arriving = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/upload"):
            await self.app(scope, receive, send)
            return
        if self.arriving >= MOST_AT_ONCE:
            await _say(send, 503, "Too many uploads at once; try again in a moment.")
            return
        self.arriving += 1
        try:
            free(self.folder, MOST_STORED - self.arriving * self.most)
            await self._pass_on(scope, receive, send)
        finally:
            self.arriving -= 1

    async def _pass_on(self, scope: MutableMapping[str, Any], receive: Callable, send: Callable) -> None:
        came, begun = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                raise _TooLarge
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLarge:
            if not begun:
                await _say(send, 413, f"An upload has at most {self.most // 1_000_000} MB.")


class _TooLarge(Exception):
    pass


async def _say(send: Callable, status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})


def free(folder: Path, most_bytes: int) -> None:
    """Delete the oldest files below a folder until the rest takes up at most `most_bytes`."""
    found = []
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                facts = os.lstat(os.path.join(at, name))
            except OSError:
                continue  # Another request has just removed it.
            found.append((facts.st_mtime, facts.st_size, os.path.join(at, name)))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            return
        Path(path).unlink(missing_ok=True)
        total -= size


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
        # 0 to 65,535 in every image, however dark; Pillow may have widened it to mode I.
        image = Image.fromarray(np.rint(np.asarray(image).clip(0, 65_535) / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    return image
