"""Where people looked, for the clips of a batch: densities and fixations of different sizes in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...maps import padded, unpadded
from .fixations import fixation_map

DENSITY, FIXATIONS = 0, 1
"""The two planes of a truth."""

OUTSIDE, UNREADABLE, NO_GAZE = -1.0, -2.0, -3.0
"""Values of cells beyond a smaller truth's size, and of the whole truth of a clip that could not be read or of which
no gaze was recorded."""


def as_truth(density: np.ndarray, points: np.ndarray) -> Tensor:
    """
    One clip's truth, float32 `[2, H, W]`: the density, and 1 in every pixel that somebody fixated.

    Args:
        density (`np.ndarray` `[H, W]`): sums to 1, or is 0 everywhere.
        points (`np.ndarray` `[K, 2]`): row and column in pixels.

    Example:

    ```python
    >>> as_truth(np.array([[0.25, 0.75]], np.float32), np.array([[0, 1]], np.float32))[1]
    tensor([[0., 1.]])
    ```
    """
    size = (density.shape[0], density.shape[1])
    return torch.stack([torch.from_numpy(density), torch.from_numpy(fixation_map(points, size)).float()])


def join_truths(truths: Sequence[Tensor]) -> Tensor:
    """B truths `[2, H_i, W_i]` as `[B, 2, H, W]`, smaller ones padded below and to the right with `OUTSIDE`."""
    return torch.stack(padded(truths, OUTSIDE))


def split_truths(labels: Tensor) -> list[Tensor]:
    """
    Each clip's truth at its own size, B of `[2, H_i, W_i]`: what [`join_truths`] joined, 0 where there is none.

    Example:

    ```python
    >>> parts = [torch.ones(2, 1, 3), torch.ones(2, 2, 2)]
    >>> [tuple(part.shape) for part in split_truths(join_truths(parts))]
    [(2, 1, 3), (2, 2, 2)]
    ```
    """
    return unpadded(labels.clamp_min(0), labels[:, DENSITY] != OUTSIDE)


def has_density(labels: Tensor) -> Tensor:
    """`[B]` bool: clips of which somebody looked at the target frame."""
    return labels[:, DENSITY].clamp_min(0).sum((1, 2)) > 0


def has_gaze(labels: Tensor) -> Tensor:
    """`[B]` bool: clips of which gaze was recorded, also where nobody looked at the target frame."""
    return labels[:, DENSITY, 0, 0] != NO_GAZE


def is_readable(labels: Tensor) -> Tensor:
    """`[B]` bool: clips that could be read."""
    return labels[:, DENSITY, 0, 0] != UNREADABLE
