"""What is said of tasks of one class for each sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...reports.task_words import TaskWords

SNIPPET = """from transformers import pipeline

classifier = pipeline("PIPELINE", model={model})
for guess in classifier({example}, OPTIONS):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""
SNIPPET_OF_SEVERAL = """from transformers import pipeline

classifier = pipeline("PIPELINE", model={model})
thresholds = getattr(classifier.model.config, "thresholds", {{}})
for guess in classifier({example}, OPTIONS, function_to_apply="sigmoid"):
    said = "yes" if guess["score"] > thresholds.get(guess["label"], 0.5) else "no"
    print(f"{{guess['label']}}: {{guess['score']:.3f}} {{said}}")"""


def pipeline_snippet(pipeline: str, options: str = "top_k=3", code: str = SNIPPET) -> str:
    """The code of a card that asks a pipeline of transformers, by its name, and calls it with these options."""
    return code.replace("PIPELINE", pipeline).replace("OPTIONS", options)


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


def multi_label_words(words: TaskWords, options: str = "top_k=3") -> TaskWords:
    """The words of a task of one class, for several: measured by mean average precision and F1.

    Args:
        words ([`TaskWords`]): of the task of one class.
        options (`str`): of the call of its pipeline.
    """
    return replace(
        words,
        title=f"{words.title} with several labels",
        metric="mAP",
        shown={
            "mAP": "mAP, %",
            "F1": "F1 (macro), %",
            "fitted_F1": "F1 (macro) by fitted thresholds, %",
            "micro_F1": "F1 (micro), %",
            "decisions": "right decisions, %",
            "loss": "cross-entropy, nats",
        },
        hub_metrics={"mAP": ("average_precision", "Mean average precision"), "F1": ("f1", "F1 (macro)")},
        snippet=pipeline_snippet(str(words.pipeline_tag), options, SNIPPET_OF_SEVERAL),
        snippets={},
        kept="decisions",
        alike="same decisions as PyTorch, %",
        by_class="Average precision",
        note="mAP is the mean over the classes of the average precision. F1 counts a class as said where its sigmoid "
        "is above 0.5, or its threshold of `thresholds` in config.json (of adapters in fitted.json), which were "
        "fitted on validation rows, to the F1 of each class; the macro one is the mean over the classes that occur. "
        "Flips are shares of all decisions, one for each sample and class.",
    )
