"""What is said of tasks of one class for each sample."""

from __future__ import annotations

from typing import Any

from ...reports.task_words import TaskWords


def classification_words(title: str, **more: Any) -> TaskWords:
    """
    The words of a task whose peers are measured by accuracy.

    Args:
        title (`str`): of the task, in a sentence, `"for …"`.
        **more: of [`TaskWords`]: `snippet` with its `example`, `pipeline_tag`, `tags`, `note`.

    Example:

    ```python
    >>> classification_words("classification of flowers").unit(0.873)
    '87.3 %'
    ```
    """
    return TaskWords(
        title,
        metric="accuracy",
        shown={"accuracy": "accuracy, %", "top5_accuracy": "top-5 accuracy, %", "loss": "cross-entropy, nats"},
        hub_metrics={"accuracy": ("accuracy", "Accuracy")},
        kept="accuracy",
        alike="same class as PyTorch, %",
        by_class="Accuracy",
        **more,
    )
