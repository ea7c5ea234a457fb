"""What is said of each task and its metrics: in tables, figures and cards, and on the Hub. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .terminal import percent

CLASSIFICATION_SNIPPET = """from transformers import pipeline

classifier = pipeline("image-classification", model={model})
for guess in classifier({example}, top_k=3):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""

SEGMENTATION_SNIPPET = """from transformers import pipeline

segmenter = pipeline("image-segmentation", model={model})
for part in segmenter({example}, subtask="semantic"):
    mask = part["mask"]  # an image of the same size, 255 where this class is
    print(f"{{part['label']}}: {{mask.histogram()[255] / (mask.width * mask.height):.1%}} of the pixels")"""

_QUERY_SNIPPET = """import torch
from PIL import Image
from transformers import {auto_processor}, AutoModelForUniversalSegmentation

processor = {auto_processor}.from_pretrained({{model}})
model = AutoModelForUniversalSegmentation.from_pretrained({{model}}).eval()
image = Image.open({{example}}).convert("RGB")
with torch.inference_mode():
    outputs = model(**processor({arguments}, return_tensors="pt"))
classes = processor.post_process_semantic_segmentation(outputs, target_sizes=[(image.height, image.width)])[0]
for index, pixels in zip(*classes.unique(return_counts=True)):
    print(f"{{{{model.config.id2label[int(index)]}}}}: {{{{pixels / classes.numel():.1%}}}} of the pixels")"""

QUERY_SNIPPET = _QUERY_SNIPPET.format(auto_processor="AutoImageProcessor", arguments="images=image")
ONEFORMER_SNIPPET = _QUERY_SNIPPET.format(
    auto_processor="AutoProcessor", arguments='images=image, task_inputs=["semantic"]'
)

SALIENCY_SNIPPET = """import torch
from transformers import AutoModel, AutoProcessor
from transformers.video_utils import load_video

processor = AutoProcessor.from_pretrained({model}, trust_remote_code=True)
model = AutoModel.from_pretrained({model}, trust_remote_code=True).eval()
frames, _ = load_video({example}, backend="pyav")  # [frames, height, width, 3]
clip = frames[-processor.num_frames * processor.frame_stride :][:: processor.frame_stride]
with torch.inference_mode():
    logits = model(**processor(clip)).logits
maps = processor.post_process(logits, size=frames.shape[1:3])  # where people look, 0 to 1"""


def text_under(head: str, value: float, sign: bool = False) -> str:
    """A value for a table, under a name that ends in `%` where it is a share between 0 and 1.

    Example:

    ```python
    >>> text_under("accuracy, %", 0.8731), text_under("CC", 0.8731)
    ('87.3', '0.873')
    ```
    """
    return percent(value, sign) if head.endswith("%") else f"{value:{'+' if sign else ''}.3f}"


@dataclass(frozen=True)
class TaskWords:
    """What is said of a task.

    Args:
        title (`str`): in a sentence, `"for …"`.
        metric (`str`): the metric that decides, and its name; greater is better.
        shown (`dict[str, str]`): metrics of a card's table and their names; a name that ends in `%` is a share between
            0 and 1, anything else a plain number.
        hub_metrics (`dict[str, tuple[str, str]]`): type and name in a card's `model-index`, by metric.
        points (`str`): what differences of `metric` are counted in.
        snippet (`str`): code with `{model}` and `{example}`, both Python literals.
        example (`str`): what the snippet's `{example}` is called in a card.
        kept (`str`): the metric of `shown` by which an export is judged.
        alike (`str`): how near answers are to PyTorch's, 1 where they are the same; as the names of `shown`.
        snippets (`dict[str, str]`, *optional*): the code for model types whose outputs need another one.
        pipeline_tag (`str`, *optional*): on the Hub, which has none for some tasks.
        tags (`tuple[str, ...]`, *optional*): further tags on the Hub.
        by_class (`str`, *optional*): begins a sentence on the metric per class; empty where there are no classes.
        note (`str`, *optional*): Markdown: how the metrics are counted, where that is not the same everywhere.
        examples (`str`, *optional*): under the figure that [`examples`] draws; a task
            without it draws none.
    """

    title: str
    metric: str
    shown: Mapping[str, str]
    hub_metrics: Mapping[str, tuple[str, str]]
    points: str
    snippet: str
    example: str
    kept: str
    alike: str
    snippets: Mapping[str, str] = field(default_factory=dict)
    pipeline_tag: str | None = None
    tags: tuple[str, ...] = ()
    by_class: str = ""
    note: str = ""
    examples: str = ""

    def is_share(self, metric: str) -> bool:
        """Whether a metric is a share, shown in %."""
        return self.shown[metric].endswith("%")

    @property
    def share(self) -> bool:
        """Whether the deciding metric is one."""
        return self.is_share(self.metric)

    @property
    def scale(self) -> int:
        """What values of the deciding metric are multiplied with in figures."""
        return 100 if self.share else 1

    @property
    def column(self) -> str:
        """The deciding metric as the head of a column, `"accuracy %"` or `"CC"`."""
        return f"{self.metric} %" if self.share else self.metric

    def text(self, value: float, sign: bool = False) -> str:
        """A value of the deciding metric for a table: `0.8731` as `87.3`, a CC as `0.873`; differences with a `sign`.

        Example:

        ```python
        >>> TASK_WORDS["image-classification"].text(0.0042, sign=True)
        '+0.42'
        >>> TASK_WORDS["video-saliency"].text(0.0042, sign=True)
        '+0.004'
        ```
        """
        return self.text_of(self.metric, value, sign)

    def text_of(self, metric: str, value: float, sign: bool = False) -> str:
        """[`text`] for any metric that is shown."""
        return text_under(self.shown[metric], value, sign)

    def unit(self, value: float) -> str:
        """A value with its unit, `"87.3 %"` or `"0.873"`."""
        return f"{self.text(value)} %" if self.share else self.text(value)

    def snippet_of(self, model_type: str | None) -> str:
        """The code for a model of this type."""
        return self.snippets.get(model_type or "", self.snippet)


TASK_WORDS = {
    "image-classification": TaskWords(
        title="image classification",
        metric="accuracy",
        shown={"accuracy": "accuracy, %", "top5_accuracy": "top-5 accuracy, %", "loss": "cross-entropy, nats"},
        hub_metrics={"accuracy": ("accuracy", "Accuracy")},
        points="points",
        snippet=CLASSIFICATION_SNIPPET,
        example="image.png",
        kept="accuracy",
        alike="same class as PyTorch, %",
        pipeline_tag="image-classification",
        by_class="Accuracy",
    ),
    "semantic-segmentation": TaskWords(
        title="semantic segmentation",
        metric="mIoU",
        shown={
            "mIoU": "mIoU, %",
            "fwIoU": "fwIoU, %",
            "mACC": "mACC, %",
            "pACC": "pACC, %",
            "loss": "cross-entropy, nats",
        },
        # The Hub knows only the first of these types.
        hub_metrics={
            "mIoU": ("mean_iou", "mIoU"),
            "fwIoU": ("fwIoU", "fwIoU"),
            "mACC": ("mACC", "mACC"),
            "pACC": ("pACC", "pACC"),
        },
        points="points of mIoU",
        snippet=SEGMENTATION_SNIPPET,
        example="image.png",
        kept="pACC",
        alike="pixels of the same class as PyTorch, %",
        snippets={
            **dict.fromkeys(("maskformer", "mask2former", "eomt", "eomt_dinov3"), QUERY_SNIPPET),
            "oneformer": ONEFORMER_SNIPPET,
        },
        pipeline_tag="image-segmentation",
        by_class="IoU",
        note=(
            "mIoU, fwIoU, mACC and pACC come from one confusion matrix over the split, without ignored pixels. A "
            "class that no pixel of the split has is left out of the means, also where it was predicted "
            '(`absent="skip"`).'
        ),
        examples=(
            "On the right, pixel by pixel, the peer that gave the truth the highest probability before the training: "
            "where it has something to teach."
        ),
    ),
    "video-saliency": TaskWords(
        title="video saliency",
        metric="CC",
        shown={
            "CC": "CC",
            "SIM": "SIM",
            "NSS": "NSS",
            "AUC-J": "AUC-J",
            "sAUC": "sAUC",
            "KLD": "KLD, nats (smaller is better)",
        },
        hub_metrics={name: (name, name) for name in ("CC", "SIM", "NSS", "AUC-J", "sAUC", "KLD")},
        points="in CC",
        snippet=SALIENCY_SNIPPET,
        example="video.mp4",
        kept="CC",
        alike="CC with PyTorch",
        tags=("video-saliency", "saliency"),
        note=(
            "CC, SIM and KLD compare with the map of where people looked, NSS, AUC-J and sAUC with the single "
            "fixations. Means over the frames that were measured; the negatives of sAUC are the fixations in the "
            "training videos."
        ),
        examples=(
            "Where people looked at the frame, and where each peer says that they look: the lighter, the likelier, "
            "relative to each map's peak. The number is the CC with the truth."
        ),
    ),
}
"""By the task's name, as in `cohort.json` and `results.json`."""


def words_of(facts: Mapping[str, Any]) -> TaskWords:
    """The words of a run by its results; those that name no task are from when there was one, image classification."""
    return TASK_WORDS[facts.get("task", "image-classification")]
