"""Label maps of segmentation: what their numbers mean, how they are read, and how they follow images into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError, LabelError
from .images import (  # noqa: F401 - one of the numbers of a label map
    BROKEN,
    UNREADABLE,
    orientation_of,
    read_file,
    turned,
)

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

COLORS = "label_colors"
"""Column with what stands for each class in the row's mask: greys, or colors as numbers 0xRRGGBB plus [`IS_COLOR`]."""
IS_COLOR = 1 << 24


def decode_mask(value: Any, colors: bool = False) -> Tensor:
    """
    One cell of a mask column as numbers, as they are stored.

    Args:
        value (`PIL.Image.Image`, `dict`, `np.ndarray`, `torch.Tensor` or nested lists): an image of one channel (8 or
            16 bits, or palette indices), or grey in three; `{"bytes": …, "path": …}` of one; whole numbers `[H, W]`.
            An alpha channel is dropped where every pixel is opaque.
        colors (`bool`, *optional*, defaults to `False`): read an image's colors, as 0xRRGGBB plus [`IS_COLOR`].

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
        return read_file(value, partial(_from_image, colors=colors))
    if isinstance(value, Image.Image):
        return _from_image(value, colors)
    if isinstance(value, list | np.ndarray | Tensor):
        return _from_numbers(value)
    kind = "nothing (null)" if value is None else type(value).__name__
    raise DataError(f"expected a mask as an image, a dict of bytes and path, or an array [H, W], got {kind}")


def _from_image(image: Image.Image, colors: bool) -> Tensor:
    if image.format == "JPEG":
        raise DataError("a mask as JPEG has other class numbers than were stored; store it as PNG")
    try:
        image.load()
        array = _channels(ImageOps.exif_transpose(image), colors)
    except DataError:
        raise
    except BROKEN as error:
        raise DataError(f"cannot be decoded: {error or type(error).__name__}") from None
    return torch.from_numpy(array.astype(np.int64))


def _channels(image: Image.Image, colors: bool) -> np.ndarray:
    if image.mode in ("LA", "PA", "RGBA") or (colors and "transparency" in image.info):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError("a mask with an alpha channel that is not opaque has two readings; store it without alpha")
        image = image.convert("RGB")
    if colors:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        return (red << 16 | green << 8 | blue) + IS_COLOR
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        return np.asarray(image)
    array = np.asarray(image)
    if image.mode != "RGB" or (array != array[..., :1]).any():
        raise DataError(
            f"a mask of mode {image.mode} holds colors, not class numbers; name the color of every class in order by "
            "--label_colors '#RRGGBB' …, or store one channel with the number of each pixel's class"
        )
    return array[..., 0]


def _from_numbers(value: Any) -> Tensor:
    try:
        array = _as_array(value) if isinstance(value, Tensor) else np.asarray(value)
    except ValueError as error:
        raise DataError(f"lists of numbers are no mask: {error}") from None
    if array.ndim != 2 or array.dtype.kind not in "biu" or 0 in array.shape:
        raise DataError(f"expected whole numbers [H, W] as a mask, got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(array.astype(np.int64))


def _as_array(value: Tensor) -> np.ndarray:
    if value.dtype == torch.bfloat16:
        # NumPy has none; the message below names what was given.
        raise DataError(f"expected whole numbers [H, W] as a mask, got {value.dtype} {list(value.shape)}")
    return value.detach().cpu().numpy()


def read_mask(row: Mapping[str, Any]) -> Tensor | None:
    """
    The mask of a row as class numbers `[H, W]`, as its columns [`REDUCE`] and [`COLORS`] say, turned with its image.

    `None` where it has none, or none that says anything: all of it is ignored.

    Raises: as [`decode_mask`], and [`LabelError`] for colors that are no class's, and where it can't be known whether
        a mask was turned with its image.
    """
    value = row.get("label")
    if is_nothing(value):
        return None
    colors = row.get(COLORS) or []
    mask = decode_mask(value, colors=any(color >= IS_COLOR for color in colors))
    mask = mask if isinstance(value, dict) and orientation_of(value) != 1 else _as_image(mask, row.get("image"))
    if colors:
        mask = of_colors(mask, colors)
    mask = reduce(mask) if row.get(REDUCE) else mask
    return None if bool((mask == IGNORE).all()) else mask


def _as_image(mask: Tensor, image: Any) -> Tensor:
    """A mask without an orientation of its own, turned with its image where its size tells that it was not yet."""
    orientation = orientation_of(image) if isinstance(image, dict) else 1
    if orientation == 1:
        return mask
    height, width = mask.shape
    stored = read_file(image, lambda opened: (opened.height, opened.width))
    if orientation >= 5 and height != width:
        return torch.from_numpy(turned(mask.numpy(), orientation)) if (height, width) == stored else mask
    raise LabelError(
        f"the image's EXIF orientation is {orientation}, its mask has none, and its size does not tell whether it was "
        "turned with the image; store the image upright (PIL.ImageOps.exif_transpose), or the mask with the same tag"
    )


def of_colors(mask: Tensor, colors: Sequence[int]) -> Tensor:
    """
    Class numbers in place of what stands for them; 255 that stands for no class is ignored.

    Args:
        mask (`torch.LongTensor` `[H, W]`): greys or colors, as [`decode_mask`] gives them.
        colors (`list[int]`): of every class, in their order.

    Raises:
        [`LabelError`]: names what stands for no class.

    Example:

    ```python
    >>> of_colors(torch.tensor([[0, 127], [255, 0]]), [0, 127])
    tensor([[  0,   1],
            [255,   0]])
    ```
    """
    known, order = torch.tensor(colors).sort()
    place = torch.searchsorted(known, mask).clamp_max(len(known) - 1)
    found = known[place] == mask
    wrong = mask[~found & (mask != IGNORE)].unique().tolist()
    if wrong:
        shown = ", ".join(f"#{value - IS_COLOR:06x}" if value >= IS_COLOR else str(value) for value in wrong[:5])
        raise LabelError(
            f"the mask holds {shown}, for which --label_colors names no class; add it in its class's place"
        )
    return torch.where(found, order[place], IGNORE)


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
        if not way and int(wrong.max()) > 2 * most:
            way = f"; if these are greys of classes, name all in order: --label_colors 0 … {int(wrong.max())}"
        raise LabelError(
            f"the mask holds {kinds} at {len(wrong)} of {mask.numel()} pixels; classes are 0 to {most - 1}, and "
            f"{IGNORE} what is ignored{way}"
        )
