"""What is said of audio classification."""

from __future__ import annotations

from ..classification.words import classification_words

SNIPPET = """from transformers import pipeline

classifier = pipeline("audio-classification", model={model})
for guess in classifier({example}, top_k=3):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""

WORDS = classification_words(
    "audio classification",
    snippet=SNIPPET,
    processor="feature_extractor",
    auto_model="AutoModelForAudioClassification",
    example="sound.flac",
    pipeline_tag="audio-classification",
)
