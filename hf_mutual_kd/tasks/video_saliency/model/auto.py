"""Importing this module tells transformers' `AutoConfig`, `AutoModel` and `AutoProcessor` of video saliency models."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_video_saliency import VideoSaliencyConfig
from .modeling_video_saliency import VideoSaliencyModel
from .processing_video_saliency import VideoSaliencyProcessor

AutoConfig.register(VideoSaliencyConfig.model_type, VideoSaliencyConfig, exist_ok=True)
AutoModel.register(VideoSaliencyConfig, VideoSaliencyModel, exist_ok=True)
AutoProcessor.register(VideoSaliencyConfig, VideoSaliencyProcessor, exist_ok=True)
