"""What a recipe of video saliency can set. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...config.fields import option
from ...config.rules import COUNT, NOT_NEGATIVE
from ...config.task_options import CropOptions


@dataclass
class SaliencyOptions(CropOptions):
    """Of video saliency."""

    fixation_maxima: bool = option(
        "data", False, "Of fixation files that hold greys, as after JPEG or smoothing, take the local maxima."
    )
    eval_frame_step: int = option(
        "data", 8, "Measure every so many-th frame of the validation and test splits.", rule=COUNT
    )
    temporal_weight: float = option(
        "training",
        0.0,
        "Train on two neighbouring frames of each video, and add so much of how far the change from one map to the "
        "next differs from the truth's.",
        rule=NOT_NEGATIVE,
    )
