"""One shared random view for all peers, then each peer's own processor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from ..config.rules import check_numbers
from .images import ReducedImage

MIX = 0x9E3779B97F4A7C15
MASK = 0x7FFFFFFFFFFFFFFF
RATIOS = [3 / 4, 4 / 3]
"""Least and greatest width of a crop in heights."""


class SharedView:
    """One random crop, flip and colour draw per sample, the same whatever peer, worker or process looks at it.

    The draw depends on the seed, the epoch and the sample id alone. The crop keeps its own size: each peer's
    processor resizes it.

    Args:
        min_area (`float`, *optional*, defaults to 0.6): smallest share of the image's area that a crop keeps.
        flip (`bool`, *optional*, defaults to `True`): mirror half of the images.
        color_jitter (`float`, *optional*, defaults to 0.0): strength of brightness, contrast and saturation changes.
        seed (`int`, *optional*, defaults to 0): of all draws.

    Example:

    ```python
    >>> view = SharedView(min_area=0.6, seed=0)
    >>> view(image, sample_id=17, epoch=2)  # the same crop and flip in every process
    ```
    """

    def __init__(self, min_area: float = 0.6, flip: bool = True, *, color_jitter: float = 0.0, seed: int = 0):
        check_numbers(min_area=min_area, color_jitter=color_jitter)
        self.min_area, self.flip, self.seed = min_area, flip, seed
        strength = (color_jitter,) * 3
        self.color = v2.ColorJitter(*strength) if color_jitter else None

    def least_side(self, side: int) -> int:
        """The shorter side of an image of which every crop has sides of `side` pixels at least.

        Example:

        ```python
        >>> SharedView(min_area=0.6).least_side(224)  # 224 / sqrt(0.6 * 3 / 4)
        334
        ```
        """
        return math.ceil(side / math.sqrt(self.min_area * RATIOS[0]))

    def __call__(self, image: Image.Image | ReducedImage, sample_id: int, epoch: int) -> Image.Image:
        pixels, whole = image if isinstance(image, ReducedImage) else (image, (image.height, image.width))
        with draws_of(self.seed, epoch, sample_id):
            # Of the whole image, so that the draw is the same at whatever size it was decoded.
            box = v2.RandomResizedCrop.get_params(torch.empty(whole, device="meta"), [self.min_area, 1.0], RATIOS)
            pixels = vision.crop(pixels, *_scaled(box, pixels.height / whole[0], pixels.width / whole[1]))
            if self.flip and torch.rand(()) < 0.5:
                pixels = vision.horizontal_flip(pixels)
            return self.color(pixels) if self.color is not None else pixels


def _scaled(box: Sequence[int], down: float, right: float) -> list[int]:
    """Top, left, height and width of a crop in an image that is so many times as high and as wide."""
    if down == right == 1:
        return list(box)
    top, left, height, width = box
    return [int(top * down), int(left * right), round(height * down), round(width * right)]


@contextmanager
def draws_of(seed: int, epoch: int, sample_id: int) -> Iterator[None]:
    """Inside, torch draws what depends on these three alone; outside, nothing has been drawn."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also seed the GPUs, whose state is not put back.
        torch.default_generator.manual_seed((seed * 1_000_003 + epoch * 7_919 + sample_id * MIX) & MASK)
        yield
