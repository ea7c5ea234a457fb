"""What a recipe of videos can set. Imports no torch."""

from dataclasses import dataclass

from ...config.task_options import ClassOptions, ClipOptions, CropOptions


@dataclass
class VideoOptions(ClipOptions, CropOptions, ClassOptions):
    """Of video classification."""
