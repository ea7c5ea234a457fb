"""What is said of text classification."""

from __future__ import annotations

from ..classification.words import classification_words, pipeline_snippet

OPTIONS = "top_k=3, truncation=True"

WORDS = classification_words(
    "text classification",
    snippet=pipeline_snippet("text-classification", OPTIONS),
    processor="tokenizer",
    auto_model="AutoModelForSequenceClassification",
    example="a text",
    pipeline_tag="text-classification",
)
