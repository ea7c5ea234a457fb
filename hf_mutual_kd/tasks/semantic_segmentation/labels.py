"""Labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.masks import IGNORE, OUTSIDE
from ..maps import Size, padded, sizes_of, unpadded
from .grids import nearest_labels


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
    return torch.stack(padded(labels, OUTSIDE))


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
    return sizes_of(labels != OUTSIDE)


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
    return [own[None] for own in unpadded(labels, labels != OUTSIDE)]
