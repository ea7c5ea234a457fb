"""Tasks: what differs between them, one object each."""

from dataclasses import fields
from typing import Any

from ..config.options import RecipeOptions
from ..config.task_options import own_fields
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


def task_class(name: str) -> type[Task]:
    """The task of this name.

    Raises:
        [`ConfigError`]: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def make_task(task: Task | type[Task] | str, options: RecipeOptions | None = None, **own: Any) -> Task:
    """A task object of its name, its class or itself.

    Args:
        task ([`Task`], its class, or `str`): e.g. `"semantic-segmentation"`.
        options ([`RecipeOptions`], *optional*): the rows and peers of a recipe; for a name or class also those of the
            task's own `options_class`.
        **own: the task's own options.

    Raises:
        [`ConfigError`]: there is no such task, an option that it does not know, or a second set of its own options.

    Example:
        >>> make_task("semantic-segmentation", granularity="class").options.granularity
        'class'
    """
    if not isinstance(task, Task):
        return (task_class(task) if isinstance(task, str) else task)(options, **own)
    rows = {} if options is None else {item.name: getattr(options, item.name) for item in fields(options)}
    if options is not None and own_fields(options):
        raise ConfigError(
            f"the task {task.name} is made already, and has its own options; give RecipeOptions, or the task's class "
            f"with {type(options).__name__}"
        )
    return task.with_options(**rows, **own) if rows or own else task
