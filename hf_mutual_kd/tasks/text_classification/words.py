"""What is said of text classification."""

from __future__ import annotations

from ..classification.words import classification_words

SNIPPET = """from transformers import pipeline

classifier = pipeline("text-classification", model={model})
for guess in classifier({example}, top_k=3, truncation=True):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""

WORDS = classification_words(
    "text classification",
    snippet=SNIPPET,
    processor="tokenizer",
    auto_model="AutoModelForSequenceClassification",
    example="a text",
    pipeline_tag="text-classification",
)
