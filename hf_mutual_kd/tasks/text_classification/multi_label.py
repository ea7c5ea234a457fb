"""Text classification with several labels of each text."""

from __future__ import annotations

from typing import ClassVar

from ..classification.export import SetPredictions
from ..classification.multi_label import MultiLabel, SetCollator
from ..classification.words import multi_label_words
from ..exporting import TaskExport
from ..space import SpaceTask
from .collator import TextCollator
from .export import TextExport
from .space import TextSpace
from .task import TextClassification
from .words import OPTIONS, WORDS


class TextSetExport(SetPredictions, TextExport):
    """As of one label."""


class TextSetCollator(SetCollator, TextCollator):
    """Rows with `text` and lists of classes."""


class MultiLabelTextClassification(MultiLabel, TextClassification):
    """Peers as of [`TextClassification`], whose every logit is an answer of its own."""

    name = "multi-label-text-classification"
    words = multi_label_words(WORDS, OPTIONS)
    collator_class = TextSetCollator
    exporter: ClassVar[type[TaskExport] | None] = TextSetExport
    space: ClassVar[SpaceTask | None] = TextSpace(several=True)
