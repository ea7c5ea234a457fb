"""What is said of audio classification."""

from __future__ import annotations

from ..classification.words import classification_words, pipeline_snippet

WORDS = classification_words(
    "audio classification",
    snippet=pipeline_snippet("audio-classification"),
    processor="feature_extractor",
    auto_model="AutoModelForAudioClassification",
    example="sound.flac",
    pipeline_tag="audio-classification",
)
