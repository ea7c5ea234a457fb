"""Maps of different sizes: the grid on which they meet, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distillation.roles import Peers

Size = tuple[int, int]
"""Rows and columns of a grid."""


def coarsest_grid(log_probs: Peers) -> Size:
    """The least number of rows and of columns among the peers' `[B, C, h, w]`: where all of them know something."""
    return min(z.shape[-2] for z in log_probs), min(z.shape[-1] for z in log_probs)


def padded(maps: Sequence[Tensor], value: float = 0) -> list[Tensor]:
    """
    Maps `[..., h_i, w_i]` at the greatest height and width, `value` below and to the right of the smaller ones.

    Example:

    ```python
    >>> padded([torch.tensor([[1, 2]]), torch.tensor([[3], [4]])], value=-1)
    [tensor([[ 1,  2],
            [-1, -1]]), tensor([[ 3, -1],
            [ 4, -1]])]
    ```
    """
    height, width = (max(one.shape[axis] for one in maps) for axis in (-2, -1))
    return [F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2]), value=value) for one in maps]


def unpadded(maps: Tensor, inside: Tensor) -> list[Tensor]:
    """
    What [`padded`] maps were: of `[B, ..., H, W]` B parts `[..., h_i, w_i]`, which share its memory.

    Args:
        maps (`torch.Tensor` of shape `[B, ..., H, W]`): of one size.
        inside (`torch.BoolTensor` of shape `[B, H, W]`): which of their places are no padding.
    """
    sizes: list[list[int]] = sizes_of(inside).tolist()
    return [one[..., :height, :width] for one, (height, width) in zip(maps, sizes, strict=True)]


def sizes_of(inside: Tensor) -> Tensor:
    """Height and width `[B, 2]` of what lies `inside`, bool `[B, H, W]`, at the upper left."""
    return torch.stack([inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)], dim=1)
