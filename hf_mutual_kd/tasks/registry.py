"""Tasks: what differs between them, one object each."""

from ..errors import ConfigError
from .audio_classification.multi_label import MultiLabelAudioClassification
from .audio_classification.task import AudioClassification
from .base import Task
from .image_classification.multi_label import MultiLabelImageClassification
from .image_classification.task import ImageClassification
from .semantic_segmentation.task import SemanticSegmentation
from .text_classification.multi_label import MultiLabelTextClassification
from .text_classification.task import TextClassification
from .video_classification.task import VideoClassification
from .video_saliency.task import VideoSaliency

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        ImageClassification,
        TextClassification,
        AudioClassification,
        VideoClassification,
        MultiLabelImageClassification,
        MultiLabelTextClassification,
        MultiLabelAudioClassification,
        SemanticSegmentation,
        VideoSaliency,
    )
}

__all__ = [
    "TASKS",
    "AudioClassification",
    "ImageClassification",
    "SemanticSegmentation",
    "Task",
    "TextClassification",
    "VideoClassification",
    "VideoSaliency",
]


def make_task(task: Task | str) -> Task:
    """A task object from its name."""
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    return TASKS[task]()
