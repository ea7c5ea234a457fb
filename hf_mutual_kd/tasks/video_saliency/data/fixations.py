"""Fixation points, and the maps and densities that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np


def fixation_density(points: np.ndarray, size: tuple[int, int], *, sigma: float) -> np.ndarray:
    """A Gaussian at every fixation, summed and made a density.

    Pixel centres have whole coordinates; the Gaussians are exact at sub-pixel positions and are not cut off. Mass that
    falls outside the frame is lost before the density is made to sum to 1.

    Args:
        points (`np.ndarray` of shape `[K, 2]`): rows and columns in pixels; points outside the frame are left out.
        size (`tuple[int, int]`): H and W.
        sigma (`float`): in pixels, above 0; by custom 1 degree of visual angle.

    Returns:
        `np.ndarray`: float32 `[H, W]` that sums to 1, or is 0 everywhere without a point in the frame.

    Raises:
        `ValueError`: a sigma that is not above 0, or points of another shape.

    Example:

    ```python
    >>> fixation_density(np.array([[0, 1]]), (1, 3), sigma=1.0).round(3)
    array([[0.274, 0.452, 0.274]], dtype=float32)
    ```
    """
    if not sigma > 0:
        raise ValueError(f"sigma of a fixation density must be above 0, got {sigma}")
    kept = _inside(points, size)
    if not len(kept):
        return np.zeros(size, np.float32)
    bells = [np.exp(-0.5 * ((np.arange(n) - kept[:, axis, None]) / sigma) ** 2) for axis, n in enumerate(size)]
    density = bells[0].T @ bells[1]
    return (density / density.sum()).astype(np.float32)


def fixation_map(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bool `[H, W]`: the pixels nearest to points `[K, 2]` (row, column); several points in a pixel count once."""
    marked = np.zeros(size, bool)
    rows, columns = np.rint(_inside(points, size)).astype(int).T
    marked[rows, columns] = True
    return marked


FEW_OUTSIDE, MOST_OUTSIDE = 0.05, 0.25
"""Share of a video's fixations outside its frame from which x is looked for in place of y, and that is refused."""


def check_points(points: np.ndarray, size: tuple[int, int]) -> None:
    """
    Refuse fixations of a video that are no pixels of it; a few beside the screen are usual.

    Args:
        points (`np.ndarray` of shape `[K, 2]`): of all frames.
        size (`tuple[int, int]`): H and W.

    Raises:
        `ValueError`: says how many lie outside, and what the numbers look like.
    """
    known = points[np.isfinite(points).all(1)]
    if not len(known):
        if len(points):
            raise ValueError(f"all {len(points)} fixations are NaN; null in place of the list says that there is none")
        return
    outside, swapped = (1 - len(_inside(one, size)) / len(points) for one in (points, points[:, ::-1]))
    looks = ""
    if known.min() >= 0 and known.max() <= 1 and (known % 1).any():
        looks = "shares of the frame, 0 to 1: multiply them by its height and width"
    elif outside > FEW_OUTSIDE and swapped < outside / 4:
        looks = "x before y: expected row before column"
    elif outside > MOST_OUTSIDE:
        looks = "pixels of a screen or video of another size: say it by `size`, [H, W]"
    if looks:
        (top, left), (bottom, right) = known.min(0), known.max(0)
        missing = f", {len(points) - len(known)} are NaN" if len(known) < len(points) else ""
        raise ValueError(
            f"{outside:.1%} of the {len(points):,} fixations lie outside {size[0]} x {size[1]} pixels (height x "
            f"width); rows go from {top:g} to {bottom:g}, columns from {left:g} to {right:g}{missing}; they look like "
            f"{looks}"
        )


def fixation_points(marked: np.ndarray) -> np.ndarray:
    """Float32 `[K, 2]`: row and column of every pixel of a fixation map `[H, W]` that is not 0."""
    return np.argwhere(marked).astype(np.float32)


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    points = np.asarray(points, np.float64).reshape(-1, 2) if np.size(points) == 0 else np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"fixation points must have the shape [K, 2], got {list(points.shape)}")
    nearest = np.rint(points)
    return points[((nearest >= 0) & (nearest < np.array(size))).all(1)]


class FixationList:
    """The fixation points of every frame of a video in one array.

    Args:
        frames (`Sequence`): for each frame its points, K pairs of row and column (K may be 0 and differ).

    Raises:
        `ValueError`: something else than pairs of numbers.

    Example:

    ```python
    >>> FixationList([[[1, 2], [3, 4]], []])[0]
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    ```
    """

    def __init__(self, frames: Sequence[Any]):
        missing = next((number for number, frame in enumerate(frames or ()) if frame is None), None)
        if missing is not None:
            raise ValueError(
                f"frame {missing} has null for fixations; gaze is of every frame of a video or of none: [] says that "
                "nobody looked, null in place of the whole list that no gaze was recorded"
            )
        try:
            points = np.array([point for frame in frames for point in frame], np.float32)
            self._ends = list(accumulate((len(frame) for frame in frames), initial=0))
        except (TypeError, ValueError) as error:
            raise ValueError(f"fixations must be a list of frames, each a list of pairs: {error}") from None
        if points.size and points.shape[1:] != (2,):
            raise ValueError(f"fixations must be pairs of row and column, got an array {list(points.shape)}")
        self._points = points.reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def points(self) -> np.ndarray:
        """Those of all frames, `[K, 2]`."""
        return self._points

    def content(self) -> bytes:
        """All points and where each frame's end, for a fingerprint."""
        return np.asarray(self._ends, "<i8").tobytes() + self._points.astype("<f4").tobytes()

    def __getitem__(self, frame: int) -> np.ndarray:
        return self._points[self._ends[frame] : self._ends[frame + 1]]
