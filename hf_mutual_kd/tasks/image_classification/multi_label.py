"""Image classification with several labels of each image."""

from __future__ import annotations

from typing import ClassVar

from ...config.options import RecipeOptions
from ..classification.multi_label import MultiLabel
from ..classification.words import multi_label_words
from ..space import SpaceTask
from .options import MultiLabelImageOptions
from .space import ClassificationSpace
from .task import ImageClassification
from .words import WORDS


class MultiLabelImageClassification(MultiLabel, ImageClassification):
    """Peers as of [`ImageClassification`], whose every logit is an answer of its own."""

    name = "multi-label-image-classification"
    words = multi_label_words(WORDS)
    options_class: ClassVar[type[RecipeOptions]] = MultiLabelImageOptions
    options: MultiLabelImageOptions
    space: ClassVar[SpaceTask | None] = ClassificationSpace(several=True)
