"""Images of a data set: decoding with errors that say what is wrong, and a look at all of them before training."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import fsspec
import numpy as np
from datasets import Dataset, IterableDataset
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError
from .image_arrays import eight_bits, picture_of
from .places import local_path, refuse_offline, refuse_special

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)
Read = TypeVar("Read")

BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)
"""What Pillow's readers raise for damaged files; a decompression bomb is reported apart."""

UNREADABLE = -2
"""Label of a sample whose image could not be read; evaluations pass over it."""

SIXTEEN_BITS = 65_535
TWELVE_BITS = 4095

BAR_FROM = 1000
"""Rows from which checking shows a progress bar."""


def decode_image(value: Any) -> Image.Image:
    """One cell of the image column as an upright RGB image.

    Args:
        value: an image of Pillow; `{"bytes": …, "path": …}` as `datasets.Image(decode=False)` gives it; the bytes of a
            file or its path; an array, tensor or nested lists, see [`~image_arrays.picture_of`].

    Returns:
        `PIL.Image.Image`: mode RGB, turned as its EXIF orientation says. Grey is repeated, transparency is dropped,
        16-bit grey is 0 to 65,535 in every image.

    Raises:
        [`DataError`]: no image, unreadable, or more pixels than `PIL.Image.MAX_IMAGE_PIXELS`
            (a small file can hold an image that fills the memory).

    Example:
        >>> decode_image(np.zeros((28, 28), np.uint8)).mode
        'RGB'
    """
    if isinstance(value, dict):
        return read_file(value, _decoded)
    if isinstance(value, Image.Image):
        return _decoded(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return read_file({"bytes": bytes(value)}, _decoded)
    if isinstance(value, str | os.PathLike):
        return read_file({"path": os.fspath(value)}, _decoded)
    if isinstance(value, list | tuple | np.ndarray | Tensor):
        return picture_of(value)
    kind = "nothing (null)" if value is None else type(value).__name__
    raise DataError(f"expected an image, a file's bytes or path, a dict of both, an array or a tensor, got {kind}")


class ReducedImage(NamedTuple):
    """A picture that was decoded at a part of its size, and the height and width of the whole."""

    image: Image.Image
    whole: tuple[int, int]


def decode_reduced(value: dict[str, Any], least: int) -> ReducedImage:
    """As [`decode_image`], but of a JPEG file the smallest of 1, 1/2, 1/4 and 1/8 of its size whose shorter side has
    `least` pixels, which its reader decodes at a fraction of the time.

    Raises: as [`read_file`].
    """

    def read(image: Image.Image) -> ReducedImage:
        whole = _upright_size(image)
        image.draft(None, (least, least))  # nothing in other formats
        return ReducedImage(_decoded(image), whole)

    return read_file(value, read)


def read_file(value: dict[str, Any], read: Callable[[Image.Image], Read]) -> Read:
    """What `read` makes of an opened image file, with errors that say what is wrong with the file.

    Args:
        value (`dict`): `{"bytes": …, "path": …}`; the path counts where there are no bytes.
        read (`Callable`): takes the image of which no pixel is decoded yet.

    Raises:
        [`DataError`]: no file, no image, too many pixels, or damaged.
    """
    path, content = value.get("path"), value.get("bytes")
    if content is None and not path:
        raise DataError("the row has no image (neither bytes nor a path)")
    try:
        if content is not None:
            return read(_open(io.BytesIO(content)))
        local = local_path(str(path))
        if local is None:
            refuse_offline()
        else:
            refuse_special(local)
        with fsspec.open(path, "rb") as stream:
            return read(_open(stream))
    except Image.DecompressionBombError as error:
        raise DataError(f"{_named(path)}too many pixels: {error}") from None
    except DataError as error:
        raise DataError(f"{_named(path)}{error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{_named(path)}cannot be decoded: no image that Pillow knows") from None
    except FileNotFoundError:
        raise DataError(f"{_named(path)}no such file") from None
    except BROKEN as error:
        raise DataError(f"{_named(path)}cannot be decoded: {error or type(error).__name__}") from None


def _open(stream: BinaryIO) -> Image.Image:
    image = Image.open(stream)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(
            f"{image.width} x {image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS = {limit}; "
            "make the image smaller, or raise the limit if you trust the file"
        )
    return image


def image_size(value: Any) -> tuple[int, int]:
    """Height and width that [`decode_image`] gives, of a file without decoding it.

    Raises: as [`decode_image`].
    """
    if isinstance(value, dict):
        return read_file(value, _upright_size)
    image = decode_image(value)
    return image.height, image.width


def orientation_of(value: Any) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1, upright, where it says none.

    Raises: as [`read_file`].
    """
    return read_file(value, lambda image: image.getexif().get(ExifTags.Base.Orientation, 1))


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array `[H, W, ...]` as `PIL.ImageOps.exif_transpose` turns an image of this orientation.

    Example:

    ```python
    >>> turned(np.array([[1, 2, 3]]), 6)
    array([[1],
           [2],
           [3]])
    ```
    """
    made = array.swapaxes(0, 1) if orientation >= 5 else array
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    made = made[::-1] if upside_down else made
    return np.ascontiguousarray(made[:, ::-1] if mirrored else made)


def sixteen_bit_peak(value: Any) -> list[int]:
    """The largest value of an image of 16-bit grey, of others nothing; finds all damage that [`decode_image`] does.

    A JPEG file is read to its end, but turned into an eighth of its pixels a side, at half the time.

    Raises: as [`decode_image`].
    """
    if isinstance(value, dict):
        return read_file(value, _decoded_peak)
    decode_image(value)
    if isinstance(value, np.ndarray):
        return [int(value.max())] if value.dtype == np.uint16 else []
    return _peak(value) if isinstance(value, Image.Image) else []


def too_dark(peaks: Sequence[int]) -> str | None:
    """What is wrong with images of 16 bits whose largest values these are; nothing where there are none."""
    if not peaks or max(peaks) > TWELVE_BITS:
        return None
    return (
        f"its images of 16 bits hold {max(peaks):,} at most, of 65,535, and would be all but black; scale them to the "
        "whole range (12 bits by 16), or store 8 bits"
    )


def _decoded_peak(image: Image.Image) -> list[int]:
    image.draft(None, (1, 1))  # nothing in other formats
    _decoded(image)
    return _peak(image)


def _peak(image: Image.Image) -> list[int]:
    return [int(np.asarray(image).max())] if image.mode.startswith("I") else []


def _upright_size(image: Image.Image) -> tuple[int, int]:
    is_turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.width, image.height) if is_turned else (image.height, image.width)


def _decoded(image: Image.Image) -> Image.Image:
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            # Mode I is 16 bits that Pillow has widened; what 32 bits mean, no file says.
            wide = np.asarray(image)
            if wide.min() < 0 or wide.max() > SIXTEEN_BITS:
                raise DataError(f"grey values of 32 bits ({wide.min()} to {wide.max()}); store 16 bits, or 8")
            image = Image.fromarray(eight_bits(wide.astype(np.uint16)))
        elif image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        if image.mode == "F":
            raise DataError("images of floating-point numbers are not read; store 8-bit values")
        return image.convert("RGB")
    except DataError:
        raise
    except BROKEN as error:
        raise DataError(f"cannot be decoded: {error or type(error).__name__}") from None


def _named(path: str | None) -> str:
    return f"{path}: " if path else ""


def image_file(row: Mapping[str, Any], folder: Path) -> str:
    """The image of a row as a file in `folder`, its path as a Python literal."""
    path = folder / "example.png"
    decode_image(row["image"]).save(path)
    return repr(str(path))


def row_id(row: Mapping[str, Any]) -> int:
    """63 bits of a hash over a row's image, or where it has none over all of it but its label."""
    if "image" in row:
        return content_id(row["image"])
    cells = [content_id(value) for name, value in row.items() if name != "label"]
    return cells[0] if len(cells) == 1 else content_id(str(cells))


def content_id(value: Any) -> int:
    """63 bits of a hash over a cell: the bytes of a file, its path where it has none, pixels, or what it reads as."""
    if isinstance(value, dict):
        content = value.get("bytes") or str(value.get("path") or value).encode()
    elif hasattr(value, "tobytes"):
        content = value.tobytes()
    else:
        content = value.numpy().tobytes() if hasattr(value, "numpy") else str(value).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1
