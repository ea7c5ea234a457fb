"""Arrays, tensors and lists as pictures: one rule for each data type, refusals for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import DataError

CHANNELS = (1, 3, 4)
"""Grey, colour, and colour with transparency, which is dropped."""


def picture_of(value: Any) -> Image.Image:
    """
    An array, tensor or nested list as an RGB image.

    Args:
        value (`np.ndarray`, `torch.Tensor` or lists): `[H, W]`, `[H, W, C]` or `[C, H, W]` with 1, 3 or 4 channels.
            What the numbers mean goes by their type, never by the single image: bytes are 0 to 255, 16 bits without
            sign 0 to 65,535, real numbers 0 to 1, truth values black and white; other whole numbers must be 0 to 255.

    Raises:
        [`DataError`]: another shape, or numbers out of range.

    Example:

    ```python
    >>> picture_of(torch.tensor([[0.0, 0.5, 1.0]])).getpixel((1, 0))
    (128, 128, 128)
    ```
    """
    try:
        if isinstance(value, Tensor):
            numbers = value.detach().cpu()
            array = (numbers.float() if numbers.is_floating_point() else numbers).numpy()
        else:
            array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"lists of numbers are no image: {error}") from None
    shape = f"{array.dtype} {list(array.shape)}"
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"expected an image [H, W], [H, W, C] or [C, H, W], got {shape}")
    if array.ndim == 3:
        first, last = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
        if not (first or last):
            raise DataError(f"expected an image [H, W], [H, W, C] or [C, H, W] of 1, 3 or 4 channels, got {shape}")
        # Of a few pixels both may fit; then tensors have their channels first, arrays last.
        array = np.moveaxis(array, 0, 2) if first and (not last or isinstance(value, Tensor)) else array
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    return Image.fromarray(np.ascontiguousarray(eight_bits(array))).convert("RGB")


def eight_bits(array: np.ndarray) -> np.ndarray:
    """Numbers of any type as bytes, see [`picture_of`]."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * 255
    if kind not in "iuf":
        raise DataError(f"expected numbers, got {array.dtype}")
    most = 65535 if array.dtype == np.uint16 else 1 if kind == "f" else 255
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= most):
        raise DataError(
            f"{array.dtype} images are read as 0 to {most:,}, and this one holds {low} to {high}; scale it, or store "
            "bytes"
        )
    return np.rint(array.astype(np.float64) * (255 / most)).astype(np.uint8)
