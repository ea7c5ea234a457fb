"""Tasks: what differs between image classification, segmentation and saliency, one object each."""

from .base import Task
from .image_classification import ImageClassification

TASKS: dict[str, type[Task]] = {task.name: task for task in (ImageClassification,)}

__all__ = ["TASKS", "ImageClassification", "Task"]
