"""Options of the view: what training changes in images, sounds and videos, alike for all peers. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from .fields import option
from .rules import CLIP_SECONDS, NOT_NEGATIVE, SHARE, between

MOST_CROPPED, MOST_SCALED = 8192, 16
"""Pixels of a crop's side, and how many times that a scaled image may have: beyond it is a slip of the keyboard."""


@dataclass
class ViewOptions:
    """What is drawn anew for every row and epoch."""

    augment: bool = option("view", True, "Random crops, and flips of images, the same for all peers.", often=True)
    crop_min_area: float = option(
        "view",
        0.6,
        "Smallest share of the image that a random crop keeps, above 0, at most 1.",
        rule=SHARE,
        only="images",
    )
    crop_size: int | None = option(
        "view",
        None,
        "For maps: side of the random square crop; unset: the largest size of the peers' processors, else 512.",
        rule=between(1, MOST_CROPPED),
        only="masks",
    )
    scale_range: list[float] = option(
        "view",
        [0.5, 2.0],
        "For maps: least and greatest shorter side of a scaled image, as multiples of crop_size.",
        only="masks",
    )
    color_jitter: float = option(
        "view",
        0.0,
        "Strength of random brightness, contrast and saturation changes.",
        rule=NOT_NEGATIVE,
        only="images",
    )

    crop_seconds: float = option(
        "view",
        5.0,
        "Of sounds and videos: seconds that a random crop keeps in training, 0.3 to 30; shorter ones stay whole.",
        rule=CLIP_SECONDS,
        only="clips",
    )

    def check_view(self) -> None:
        """
        Refuse a range that is none.

        Raises:
            [`ConfigError`]: of `scale_range`.
        """
        ends = self.scale_range
        if len(ends) != 2 or not 0 < ends[0] <= ends[1] <= MOST_SCALED:
            raise ConfigError(f"scale_range must be two numbers, 0 < least <= greatest <= {MOST_SCALED}, got {ends}")
