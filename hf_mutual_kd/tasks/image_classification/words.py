"""What is said of image classification."""

from __future__ import annotations

from ..classification.words import classification_words

SNIPPET = """from transformers import pipeline

classifier = pipeline("image-classification", model={model})
for guess in classifier({example}, top_k=3):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""

WORDS = classification_words(
    "image classification",
    snippet=SNIPPET,
    auto_model="AutoModelForImageClassification",
    example="image.png",
    pipeline_tag="image-classification",
)
