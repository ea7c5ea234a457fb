"""What is said of image classification."""

from __future__ import annotations

from ...reports.task_words import TaskWords

SNIPPET = """from transformers import pipeline

classifier = pipeline("image-classification", model={model})
for guess in classifier({example}, top_k=3):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""

WORDS = TaskWords(
    title="image classification",
    metric="accuracy",
    shown={"accuracy": "accuracy, %", "top5_accuracy": "top-5 accuracy, %", "loss": "cross-entropy, nats"},
    hub_metrics={"accuracy": ("accuracy", "Accuracy")},
    points="points",
    snippet=SNIPPET,
    example="image.png",
    kept="accuracy",
    alike="same class as PyTorch, %",
    pipeline_tag="image-classification",
    by_class="Accuracy",
)
