"""Video saliency: models that load from the Hub, metrics, clips, videos and data sets.

Names load on first use, and with the first one transformers' Auto classes learn the models (as they do with
`import hf_mutual_kd.tasks.video_saliency.model.auto`); importing the package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.configuration_video_saliency import VideoSaliencyConfig
    from .model.modeling_video_saliency import VideoSaliencyModel, VideoSaliencyOutput
    from .model.processing_video_saliency import VideoSaliencyProcessor
    from .predict import predict_video
    from .streaming import cut_distance, stream_saliency

_HOMES = {
    "VideoSaliencyConfig": "model.configuration_video_saliency",
    "VideoSaliencyModel": "model.modeling_video_saliency",
    "VideoSaliencyOutput": "model.modeling_video_saliency",
    "VideoSaliencyProcessor": "model.processing_video_saliency",
    "cut_distance": "streaming",
    "predict_video": "predict",
    "stream_saliency": "streaming",
}

__all__ = [
    "VideoSaliencyConfig",
    "VideoSaliencyModel",
    "VideoSaliencyOutput",
    "VideoSaliencyProcessor",
    "cut_distance",
    "predict_video",
    "stream_saliency",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".model.auto", __name__)
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
