"""Audio classification with several labels of each sound."""

from __future__ import annotations

from ..classification.multi_label import MultiLabel, SetCollator
from ..classification.words import multi_label_words
from .collator import AudioCollator
from .task import AudioClassification
from .words import WORDS


class AudioSetCollator(SetCollator, AudioCollator):
    """Rows with `audio` and lists of classes."""


class MultiLabelAudioClassification(MultiLabel, AudioClassification):
    """Peers as of [`AudioClassification`], whose every logit is an answer of its own."""

    name = "multi-label-audio-classification"
    words = multi_label_words(WORDS)
    option_kinds = ("parts", "clips")
    collator_class = AudioSetCollator
