"""Tasks: what differs between image classification, segmentation and saliency, one object each."""

from .base import Task
from .image_classification import ImageClassification
from .semantic_segmentation import SemanticSegmentation
from .video_saliency import VideoSaliency

TASKS: dict[str, type[Task]] = {task.name: task for task in (ImageClassification, SemanticSegmentation, VideoSaliency)}

__all__ = ["TASKS", "ImageClassification", "SemanticSegmentation", "Task", "VideoSaliency"]
