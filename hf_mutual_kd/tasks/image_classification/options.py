"""What a recipe of images can set. Imports no torch."""

from dataclasses import dataclass

from ...config.task_options import ClassOptions, CropOptions, SeveralLabelsOptions


@dataclass
class ImageOptions(CropOptions, ClassOptions):
    """Of image classification."""


@dataclass
class MultiLabelImageOptions(CropOptions, SeveralLabelsOptions):
    """Of images with several labels."""
