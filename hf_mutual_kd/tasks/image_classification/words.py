"""What is said of image classification."""

from __future__ import annotations

from ..classification.words import classification_words, pipeline_snippet

WORDS = classification_words(
    "image classification",
    snippet=pipeline_snippet("image-classification"),
    auto_model="AutoModelForImageClassification",
    example="image.png",
    pipeline_tag="image-classification",
)
