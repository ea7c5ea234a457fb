"""Where people looked, read from images and arrays: single pixels, not greys that compression or smoothing left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ....errors import DataError
from .map_files import read_map

MOST_MARKED, FEW_MARKED = 0.01, 50
"""Share of a frame's pixels that can be fixations, and how many observers can have left in the smallest frame."""

MOST_IN_A_PIXEL = 64
"""How often people look at one pixel is a smaller number than this; a grey is a greater one."""


def read_fixations(path: Path, maxima: bool = False) -> np.ndarray:
    """
    The fixated pixels of a frame, bool `[H, W]`: a file of two values, or of numbers of fixations.

    Args:
        path (`Path`): what [`read_map`] reads.
        maxima (`bool`, *optional*, defaults to `False`): take the local maxima above half the greatest value where a
            file holds greys, as after JPEG, smoothing or resizing; a plateau is one.

    Raises:
        [`DataError`]: unreadable, greys without `maxima`, or more pixels than people can have looked at; the message
            does not name the file.
    """
    values = read_map(path)
    if not np.isfinite(values).all():
        raise DataError("holds NaN or infinite numbers, expected fixated pixels")
    levels = np.unique(values)
    counts = levels[-1] < MOST_IN_A_PIXEL and bool((levels == np.rint(levels)).all())
    if len(levels) <= 2 or counts:
        marked = values > (levels[0] if len(levels) == 2 else 0)
    elif maxima:
        marked = local_maxima(values)
    else:
        raise DataError(
            f"holds {len(levels)} values from {levels[0]:g} to {levels[-1]:g}, not fixated pixels; JPEG, smoothing "
            "and resizing leave such greys: store two values without loss, or take the local maxima by "
            "--fixation_maxima true"
        )
    number = int(marked.sum())
    if number > max(FEW_MARKED, MOST_MARKED * marked.size):
        turned = "; it looks inverted, black on white: invert it" if number > marked.size / 2 else ""
        raise DataError(
            f"marks {number:,} of {marked.size:,} pixels as fixated, more than {MOST_MARKED:.0%} of them{turned}"
        )
    return marked


def local_maxima(values: np.ndarray) -> np.ndarray:
    """
    One pixel of every peak above half the greatest value, bool of the same shape `[H, W]`.

    Example:

    ```python
    >>> local_maxima(np.array([[0, 90, 200, 90, 0, 0, 140, 140, 0]]))
    array([[False, False,  True, False, False, False,  True, False, False]])
    ```
    """
    from scipy import ndimage  # which few runs need

    gray = torch.from_numpy(values.astype(np.float32))[None, None]
    peaks = ((gray == F.max_pool2d(gray, 3, 1, 1)) & (gray >= gray.max() / 2) & (gray > 0))[0, 0].numpy()
    plateaus, number = ndimage.label(peaks, np.ones((3, 3)))
    marked = np.zeros(values.shape, bool)
    for row, column in ndimage.maximum_position(values, plateaus, range(1, number + 1)) if number else ():
        marked[row, column] = True
    return marked
