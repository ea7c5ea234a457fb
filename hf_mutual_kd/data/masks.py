"""Label maps of segmentation: what their numbers mean, how they are read, and how they follow images into a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError, LabelError
from .images import BROKEN, UNREADABLE, read_file  # noqa: F401 - one of the numbers of a label map

IGNORE = 255
"""A pixel of the picture that counts nowhere; the classes are 0 to C - 1."""
OUTSIDE = -1
"""Not in the picture: images smaller than the largest of their batch are padded below and to the right."""
UNLABELLED = -3
"""Every pixel of a sample that has no mask: it may learn by transfer, but has no truth."""
MOST_CLASSES = 255
"""One more would need the number 255."""
REDUCE = "reduce_labels"
"""Column that says of each row that its mask counts the classes from 1, 0 being ignored."""


def decode_mask(value: Any) -> Tensor:
    """
    One cell of a mask column as class numbers, as they are stored.

    Args:
        value (`PIL.Image.Image`, `dict`, `np.ndarray`, `torch.Tensor` or nested lists): an image of one channel (8 or
            16 bits, or palette indices); `{"bytes": …, "path": …}` of one; whole numbers `[H, W]`.

    Returns:
        `torch.LongTensor` `[H, W]`, turned as its EXIF orientation says.

    Raises:
        [`DataError`]: no mask, unreadable, colours, JPEG, or no whole numbers.

    Example:

    ```python
    >>> decode_mask(np.array([[0, 255], [3, 3]], np.uint8))
    tensor([[  0, 255],
            [  3,   3]])
    ```
    """
    if isinstance(value, dict):
        return read_file(value, _from_image)
    if isinstance(value, Image.Image):
        return _from_image(value)
    if isinstance(value, list | np.ndarray | Tensor):
        return _from_numbers(value)
    kind = "nothing (null)" if value is None else type(value).__name__
    raise DataError(f"expected a mask as an image, a dict of bytes and path, or an array [H, W], got {kind}")


def _from_image(image: Image.Image) -> Tensor:
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise DataError(
            f"a mask of mode {image.mode} holds colours, not class numbers; store one channel with the number of each "
            "pixel's class (mode L, P or I;16)"
        )
    if image.format == "JPEG":
        raise DataError("a mask as JPEG has other class numbers than were stored; store it as PNG")
    try:
        image.load()
        array = np.asarray(ImageOps.exif_transpose(image))
    except BROKEN as error:
        raise DataError(f"cannot be decoded: {error or type(error).__name__}") from None
    return torch.from_numpy(array.astype(np.int64))


def _from_numbers(value: Any) -> Tensor:
    try:
        array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    except ValueError as error:
        raise DataError(f"lists of numbers are no mask: {error}") from None
    if array.ndim != 2 or array.dtype.kind not in "biu" or 0 in array.shape:
        raise DataError(f"expected whole numbers [H, W] as a mask, got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(array.astype(np.int64))


def read_mask(row: Mapping[str, Any]) -> Tensor | None:
    """The mask of a row, `[H, W]`, reduced where its column [`REDUCE`] says so; `None` where it has none.

    Raises: as [`decode_mask`].
    """
    value = row.get("label")
    if is_nothing(value):
        return None
    mask = decode_mask(value)
    return reduce(mask) if row.get(REDUCE) else mask


def is_nothing(value: Any) -> bool:
    """Whether a cell of a mask column is empty: null, or an image without bytes and path."""
    return value is None or (isinstance(value, dict) and not value.get("bytes") and not value.get("path"))


def reduce(labels: Tensor) -> Tensor:
    """
    Classes counted from 1 to classes counted from 0; what was 0 is ignored. To be done once.

    Example:

    ```python
    >>> reduce(torch.tensor([0, 1, 150, 255]))
    tensor([255,   0, 149, 255])
    ```
    """
    reduced = torch.where(labels > 0, labels - 1, labels)
    return reduced.masked_fill((labels == 0) | (labels == IGNORE), IGNORE)


def check_mask(mask: Tensor, image_size: tuple[int, int], classes: int | None) -> None:
    """Refuse a mask that is not of its image, or holds what is no class.

    Args:
        mask (`torch.Tensor` `[H, W]`): class numbers, reduced where they have to be.
        image_size (`tuple[int, int]`): height and width of the image.
        classes (`int`, *optional*): how many there are, where it is known.

    Raises:
        [`LabelError`]: says what is wrong, not in which row.
    """
    height, width = mask.shape
    if (height, width) != tuple(image_size):
        raise LabelError(
            f"the mask is {height} x {width} pixels (height x width), its image {image_size[0]} x {image_size[1]}; "
            "store them alike"
        )
    most = MOST_CLASSES if classes is None else classes
    wrong = mask[((mask < 0) | (mask >= most)) & (mask != IGNORE)]
    if len(wrong):
        kinds = ", ".join(str(number) for number in wrong.unique().tolist()[:5])
        way = "; --reduce_labels true if the classes are counted from 1" if bool((wrong == most).all()) else ""
        raise LabelError(
            f"the mask holds {kinds} at {len(wrong)} of {mask.numel()} pixels; classes are 0 to {most - 1}, and "
            f"{IGNORE} what is ignored{way}"
        )
