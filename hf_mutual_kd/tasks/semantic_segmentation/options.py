"""What a recipe of segmentation can set. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...config.fields import option
from ...config.rules import NOT_NEGATIVE, between
from ...config.task_options import ColorOptions, MaskOptions
from ...errors import ConfigError

MOST_CROPPED, MOST_SCALED = 8192, 16
"""Pixels of a crop's side, and how many times that a scaled image may have: beyond it is a slip of the keyboard."""


@dataclass
class SegmentationOptions(ColorOptions, MaskOptions):
    """Of semantic segmentation.

    Args:
        granularity (`str`, *optional*, defaults to `"image"`): who teaches is decided per image, per class of each
            image or per pixel.
        transfer_grid (`str`, *optional*, defaults to `"coarsest"`): where peers meet: the coarsest of their grids, or
            that of the labels (`"label"`).
        pixel_loss_weight (`float`, *optional*, defaults to 0.0): of a per-pixel cross-entropy beside the own loss of
            heads with queries; that of the others is one already.

    Raises:
        [`ConfigError`]: a `scale_range` that is none.
    """

    granularity: Literal["image", "class", "pixel"] = option(
        "teaching", "image", "Unit of who teaches: an image, every class of it, or every pixel."
    )
    transfer_grid: Literal["coarsest", "label"] = option(
        "teaching",
        "coarsest",
        "Maps meet on the coarsest grid of the peers, or at the size of the labels ('label').",
        scored=True,
    )
    pixel_loss_weight: float = option(
        "training",
        0.0,
        "Of heads with queries: add so much per-pixel cross-entropy to their own loss, in every arm.",
        rule=NOT_NEGATIVE,
    )
    crop_size: int | None = option(
        "view",
        None,
        "Side of the random square crop; unset: the largest size of the peers' processors, else 512.",
        rule=between(1, MOST_CROPPED),
    )
    scale_range: list[float] = option(
        "view", [0.5, 2.0], "Least and greatest shorter side of a scaled image, as multiples of crop_size."
    )

    def __post_init__(self) -> None:
        ends = self.scale_range
        if len(ends) != 2 or not 0 < ends[0] <= ends[1] <= MOST_SCALED:
            raise ConfigError(f"scale_range must be two numbers, 0 < least <= greatest <= {MOST_SCALED}, got {ends}")
