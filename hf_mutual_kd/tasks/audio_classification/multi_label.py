"""Audio classification with several labels of each sound."""

from __future__ import annotations

from typing import ClassVar

from ...config.options import RecipeOptions
from ..classification.export import SetPredictions
from ..classification.multi_label import MultiLabel, SetCollator
from ..classification.words import multi_label_words
from ..exporting import TaskExport
from ..space import SpaceTask
from .collator import AudioCollator
from .export import AudioExport
from .options import MultiLabelAudioOptions
from .space import AudioSpace
from .task import AudioClassification
from .words import WORDS


class AudioSetExport(SetPredictions, AudioExport):
    """As of one label."""


class AudioSetCollator(SetCollator, AudioCollator):
    """Rows with `audio` and lists of classes."""


class MultiLabelAudioClassification(MultiLabel, AudioClassification):
    """Peers as of [`AudioClassification`], whose every logit is an answer of its own."""

    name = "multi-label-audio-classification"
    words = multi_label_words(WORDS)
    options_class: ClassVar[type[RecipeOptions]] = MultiLabelAudioOptions
    options: MultiLabelAudioOptions
    collator_class = AudioSetCollator
    exporter: ClassVar[type[TaskExport] | None] = AudioSetExport
    space: ClassVar[SpaceTask | None] = AudioSpace(several=True)
