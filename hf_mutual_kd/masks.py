"""Label maps of segmentation: what their numbers mean, how they are read, and how they follow images into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from .errors import DataError, LabelError
from .grids import Size, nearest_labels
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
        [`~hf_mutual_kd.errors.DataError`]: no mask, unreadable, colours, JPEG, or no whole numbers.

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


def check_mask(mask: Tensor, image_size: Size, classes: int | None) -> None:
    """Refuse a mask that is not of its image, or holds what is no class.

    Args:
        mask (`torch.Tensor` `[H, W]`): class numbers, reduced where they have to be.
        image_size (`tuple[int, int]`): height and width of the image.
        classes (`int`, *optional*): how many there are, where it is known.

    Raises:
        [`~hf_mutual_kd.errors.LabelError`]: says what is wrong, not in which row.
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


def pad_labels(labels: Sequence[Tensor]) -> Tensor:
    """
    Label maps of different sizes as one batch, `OUTSIDE` below and to the right of the smaller ones.

    Args:
        labels (`Sequence[torch.Tensor]`): B maps `[h, w]`.

    Returns:
        `torch.Tensor` `[B, H, W]` of the greatest height and width.

    Example:

    ```python
    >>> pad_labels([torch.tensor([[1, 2]]), torch.tensor([[3], [4]])])
    tensor([[[ 1,  2],
             [-1, -1]],
    <BLANKLINE>
            [[ 3, -1],
             [ 4, -1]]])
    ```
    """
    height, width = (max(map_.shape[axis] for map_ in labels) for axis in (0, 1))
    return torch.stack(
        [F.pad(map_, (0, width - map_.shape[1], 0, height - map_.shape[0]), value=OUTSIDE) for map_ in labels]
    )


def image_sizes(labels: Tensor) -> Tensor:
    """
    Height and width of every image in a padded batch.

    Args:
        labels (`torch.Tensor` `[B, H, W]`): as of [`pad_labels`].

    Returns:
        `torch.LongTensor` `[B, 2]`.

    Example:

    ```python
    >>> image_sizes(torch.tensor([[[0, 255, -1], [-1, -1, -1]]]))
    tensor([[1, 2]])
    ```
    """
    inside = labels != OUTSIDE
    return torch.stack([inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)], dim=1)


def fill(labels: Tensor, size: Size | None = None) -> Tensor:
    """
    Every image's own part of a padded batch, at one size; nearest, so that no new label arises.

    Args:
        labels (`torch.Tensor` `[B, H, W]`): as of [`pad_labels`].
        size (`tuple[int, int]`, *optional*): height and width of the result; the batch's own when unset.

    Returns:
        `torch.Tensor` `[B, h, w]` without `OUTSIDE`.

    Example:

    ```python
    >>> fill(torch.tensor([[[5, 7, -1, -1]]]))
    tensor([[[5, 5, 7, 7]]])
    ```
    """
    size = size or (labels.shape[1], labels.shape[2])
    return torch.cat([nearest_labels(own, size) for own in own_parts(labels)])


def labels_for_peer(labels: Tensor, valid_sizes: Tensor, padded_size: Size) -> Tensor:
    """
    What a peer's own training loss compares with: the labels where the peer sees the image, `IGNORE` elsewhere.

    Args:
        labels (`torch.Tensor` `[B, H, W]`): as of [`pad_labels`].
        valid_sizes (`torch.Tensor` `[B, 2]`): height and width of each image in the peer's `pixel_values`.
        padded_size (`tuple[int, int]`): height and width of the peer's `pixel_values`.

    Returns:
        `torch.Tensor` `[B, h, w]` of `padded_size`: 0 to C - 1 and `IGNORE`, also where a sample has no labels.

    Example:

    ```python
    >>> labels_for_peer(torch.tensor([[[5, 7, -1]]]), torch.tensor([[1, 4]]), (1, 6))
    tensor([[[  5,   5,   7,   7, 255, 255]]])
    ```
    """
    made = labels.new_full((len(labels), *padded_size), IGNORE)
    sizes: list[list[int]] = valid_sizes.tolist()
    for place, (own, (height, width)) in enumerate(zip(own_parts(labels), sizes, strict=True)):
        made[place, :height, :width] = nearest_labels(own, (height, width))[0]
    return made.masked_fill(made < 0, IGNORE)


def query_targets(peer_labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """
    Labels as heads with queries learn from them: per image one mask for every class in it.

    Pixels that are ignored or have no label are in no mask; to such a head they are the rest of every mask.

    Args:
        peer_labels (`torch.Tensor` `[B, h, w]`): as of [`labels_for_peer`].

    Returns:
        `tuple` of two lists of length B: `mask_labels`, fp32 `[n, h, w]` of 0 and 1, and `class_labels`, int64 `[n]`;
        n is 0 for an image without labels.

    Example:

    ```python
    >>> query_targets(torch.tensor([[[2, 0, 255]]]))
    ([tensor([[[0., 1., 0.]],
    <BLANKLINE>
            [[1., 0., 0.]]])], [tensor([0, 2])])
    ```
    """
    classes = [present[(present >= 0) & (present != IGNORE)] for present in (own.unique() for own in peer_labels)]
    masks = [(own == found[:, None, None]).float() for own, found in zip(peer_labels, classes, strict=True)]
    return masks, [found.long() for found in classes]


def own_parts(labels: Tensor) -> list[Tensor]:
    """Each image's part of a padded batch, `[1, h, w]`."""
    sizes: list[list[int]] = image_sizes(labels).tolist()
    return [labels[place : place + 1, :height, :width] for place, (height, width) in enumerate(sizes)]
