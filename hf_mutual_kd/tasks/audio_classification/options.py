"""What a recipe of sounds can set. Imports no torch."""

from dataclasses import dataclass

from ...config.task_options import ClassOptions, ClipOptions, SeveralLabelsOptions


@dataclass
class AudioOptions(ClipOptions, ClassOptions):
    """Of audio classification."""


@dataclass
class MultiLabelAudioOptions(ClipOptions, SeveralLabelsOptions):
    """Of sounds with several labels."""
