"""Saliency maps as arrays: checks, densities, sizes and the DHF1K server's view. Pure numpy functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import DataError

BLUR_WIDTH, BLUR_SIGMA = 11, 2.0
"""An 11 x 11 window, for which OpenCV derives sigma = 0.3 * ((11 - 1) / 2 - 1) + 0.8."""

Size = tuple[int, int]


def checked_map(values: Any, name: str) -> np.ndarray:
    """
    A map in its own type.

    Raises:
        [`DataError`]: no real numbers `[H, W]`, no pixel, or NaN or infinity in it.
    """
    found = np.asarray(values)
    if found.ndim != 2 or not found.size or found.dtype.kind not in "biuf":
        raise DataError(f"A {name} must be real numbers of shape [H, W], got {found.dtype} {list(found.shape)}.")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise DataError(f"The {name} holds NaN or infinity in {int((~np.isfinite(found)).sum())} pixels.")
    return found.astype(np.float32) if found.dtype == np.float16 else found


def as_density(values: np.ndarray) -> np.ndarray:
    """A map `[H, W]` that sums to 1: shifted to minimum 0 where it has negative values, uniform where it is blank."""
    lowest, highest = values.min(), values.max()
    if lowest < 0:
        values, highest = values - lowest, highest - lowest
    if highest == 0:
        return np.full(values.shape, 1 / values.size)
    scaled = values / highest
    return scaled / scaled.sum()


def resize_map(values: Any, size: Size) -> np.ndarray:
    """
    Bilinear with half-pixel centres and without low-pass filter, as OpenCV's `resize`; float64 `[H, W]`.

    Example:

    ```python
    >>> resize_map([[0.0, 4.0]], (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    ```
    """
    resized = checked_map(values, "map").astype(np.float64)
    for axis, (old, new) in enumerate(zip(resized.shape, size, strict=True)):
        if old == new:
            continue
        place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        low = place.astype(np.intp)
        share = np.expand_dims(place - low, 1 - axis)
        upper = np.take(resized, np.minimum(low + 1, old - 1), axis)
        resized = np.take(resized, low, axis) * (1 - share) + upper * share
    return resized


def rescale_counts(counts: Any, size: Size) -> np.ndarray:
    """
    Counts of fixations `[h, w]` moved to the pixels of another size; none is lost, int64 `[H, W]`.

    A fixation at the centre of pixel r of h lands in pixel floor((r + 0.5) * H / h) of H.

    Example:

    ```python
    >>> rescale_counts([[1, 2, 0, 3]], (1, 2)).tolist()
    [[3, 3]]
    ```
    """
    found = np.asarray(counts)
    rows, columns = np.nonzero(found)
    places = [(2 * at + 1) * new // (2 * old) for at, new, old in zip((rows, columns), size, found.shape, strict=True)]
    moved = np.zeros(size, np.int64)
    np.add.at(moved, tuple(places), found[rows, columns])
    return moved


def dhf1k_protocol(prediction: Any, size: Size) -> np.ndarray:
    """
    What the DHF1K server sees of a prediction: resized to the truth's size, blurred and written as an 8-bit image.

    The order and the stretch to 0..255 are those of the field's published result writers: bilinear resize, Gaussian
    of 11 x 11 pixels with sigma 2 (borders mirrored without the edge pixel, as OpenCV), minimum to 0 and maximum to
    255, rounded. For raw predictions; maps that were written so before are scored raw.

    Args:
        prediction (`[h, w]`, real): higher is more salient.
        size (`tuple[int, int]`): H, W of the truth.

    Returns:
        `np.ndarray` `[H, W]`, uint8: 0 throughout for a constant prediction.

    Raises:
        [`DataError`]: a prediction that is no finite map.
    """
    values = checked_map(prediction, "prediction")
    if is_constant(values):
        return np.zeros(size, np.uint8)
    blurred = _blurred(resize_map(values, size))
    spread = np.ptp(blurred)
    if spread == 0:
        return np.zeros(size, np.uint8)
    return np.floor((blurred - blurred.min()) / spread * 255 + 0.5).astype(np.uint8)


def is_constant(values: np.ndarray) -> bool:
    """Whether all pixels are equal; by standard deviation, 0.1 throughout would not be."""
    return bool(values.min() == values.max())


def _blurred(values: np.ndarray) -> np.ndarray:
    reach = BLUR_WIDTH // 2
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * BLUR_SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        length = values.shape[axis]
        wide = np.pad(values, [(reach, reach) if at == axis else (0, 0) for at in (0, 1)], mode="reflect")
        values = sum(
            (weight * np.take(wide, range(start, start + length), axis) for start, weight in enumerate(weights)),
            start=np.zeros_like(values),
        )
    return values
