"""Text classification with several labels of each text."""

from __future__ import annotations

from ..classification.multi_label import MultiLabel, SetCollator
from ..classification.words import multi_label_words
from .collator import TextCollator
from .task import TextClassification
from .words import WORDS


class TextSetCollator(SetCollator, TextCollator):
    """Rows with `text` and lists of classes."""


class MultiLabelTextClassification(MultiLabel, TextClassification):
    """Peers as of [`TextClassification`], whose every logit is an answer of its own."""

    name = "multi-label-text-classification"
    words = multi_label_words(WORDS)
    collator_class = TextSetCollator
